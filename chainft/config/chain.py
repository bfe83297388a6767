"""Settings of a chain: how the model is cut into stages or how models are linked, and what each stage may change.

Stages are a mapping plus `order`, so that files merge and the command line names them: `chain.stages.base.frozen=true`.
Which blocks a model has is known later: `chainft.stages.spans` holds the ranges against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from chainft.config.ranges import Count, Fraction, FractionBelowOne, Limits, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on the linear layers of a stage (Hu et al. 2021, arXiv:2106.09685), through PEFT."""

    r: Count = 8
    """Rank of the update."""
    alpha: Positive = 16.0
    """The update is scaled by alpha / r."""
    dropout: FractionBelowOne = 0.0
    """Dropout on the adapters' input."""
    target_modules: tuple[str, ...] = ()
    """Names of the linear layers that get adapters (last parts, such as `query`); empty: all in the stage's blocks."""


@dataclass(frozen=True, kw_only=True)
class ShareConfig:
    """Parameters that a stage has in common with another: one tensor in both places, always."""

    with_: str
    """The stage whose parameters are used."""
    parameters: str | None = None
    """Regular expression that the names within a block must match in full; null: all parameters of the blocks."""


@dataclass(frozen=True, kw_only=True)
class AuxiliaryConfig:
    """A head of its own at the end of a stage (deep supervision, Lee et al. 2015, arXiv:1409.5185)."""

    weight: Positive = 0.3
    """Its loss is added to the loss of the last head with this weight."""


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """A module between linked models. Each plug-in adds its own fields."""

    name: str
    """The connector plug-in: one of chainft's or of an installed package."""


@dataclass(frozen=True, kw_only=True)
class StageKindConfig:
    """A stage that is a module of its own and no model. Each plug-in adds its own fields."""

    name: str
    """The stage plug-in: one of chainft's or of an installed package."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage: which part of the computation it is, and what training may change in it."""

    blocks: str | None = None
    """Its part of the model: `embeddings`, `head` and ranges of blocks, such as `embeddings, :4` or `4:, head`; for
    encoder-decoders `encoder.0:3`, `decoder.:`. Null: given by `chain.split`, or all blocks of the stage's own `model`."""
    model: str | None = None
    """A model of its own (folder, hub name or short name): the stages are then linked models."""
    kind: StageKindConfig | None = None
    """A module of its own that reads the hidden states before it, as a plug-in with its settings: `{name: recurrent}`.
    The stages are then linked ones, and those without a `model` of their own are the run's."""
    from_: str | None = None
    """Run folder whose trained weights the stage starts with; their shapes must fit."""
    frozen: bool | str = False
    """true: no parameter of the stage is trained; text: a regular expression, those whose name it finds are not."""
    unfreeze_at: Annotated[float, Limits(0, 1, open_low=True, open_high=True)] | None = None
    """Share of the training after which a frozen stage is trained too (gradual unfreezing); between 0 and 1."""
    eval_mode: bool = False
    """Run the stage without dropout in training too; only for a stage that is wholly frozen."""
    lr: Positive | None = None
    """Peak learning rate of the stage; default `optimizer.lr`."""
    weight_decay: NotNegative | None = None
    """Weight decay of the stage; default `optimizer.weight_decay`."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type in which the blocks of a wholly frozen stage keep their weights and compute; default float32."""
    gradient_checkpointing: bool | None = None
    """Recompute the activations of the stage in the backward pass; default `train.gradient_checkpointing`."""
    dropout: FractionBelowOne | None = None
    """Dropout of the stage; default: the model's own."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of the stage's weights; they are merged into the saved model."""
    share: ShareConfig | None = None
    """Use the parameters of another stage."""
    repeat: Count = 1
    """Run the stage's blocks this often in a row, with the same parameters (Universal Transformers, ALBERT)."""
    receive: Literal["previous", "all"] = "previous"
    """Linked models: read the hidden states of the stage before (message passing), or a learned mix of the outputs of
    all stages before (state sharing)."""
    connector: Literal["auto", "linear", "none"] | ConnectorConfig = "auto"
    """Linked models: what stands between hidden states; auto: a linear map where the widths differ, else nothing; or a
    plug-in with its settings, `{name: mlp}`."""
    residual: bool = False
    """Linked models: add what is received to the stage's own embeddings instead of replacing them."""
    auxiliary: AuxiliaryConfig | None = None
    """A head at the end of the stage, trained beside the last one; not for the last stage."""


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """A model as stages that follow each other; without stages, the model is one."""

    split: Count | Literal["auto"] | None = None
    """Cut the model into this many stages with equally many blocks, named `stage0`, `stage1`, ...; auto: into
    `num_stages` of equal cost."""
    num_stages: Count | None = None
    """How many stages `split: auto` makes."""
    balance: Literal["time", "memory"] | None = None
    """What `split: auto` makes equal: measured time of forward and backward pass (the default), or bytes."""
    order: tuple[str, ...] = ()
    """Names of the stages in the order in which they compute."""
    stages: Mapping[str, StageConfig] = field(default_factory=dict)
    """The stages by name."""
    exit_confidence: Fraction | None = None
    """Prediction of a text leaves at the first auxiliary head that is this sure of all its answers; null: never."""

    @property
    def is_linked(self) -> bool:
        """Whether the stages are models, or modules, of their own."""
        return any(stage.model is not None or stage.kind is not None for stage in self.stages.values())

    def has_head(self, name: str) -> bool:
        """Whether a linked stage has a head: that of the task, or an auxiliary one."""
        return name == self.order[-1] or self.stages[name].auxiliary is not None
