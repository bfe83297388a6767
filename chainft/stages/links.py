"""Linked models as one Hugging Face model: every stage is a whole model, and later ones read the outputs of earlier.
A stage that is a module of a plug-in is such a model of one block too (`chainft.stages.stage_modules`).

What a stage receives (the output of the stage before, or a learned mix of all before) enters at block 0 of its model,
whose own code computes everything else. The last stage has the head of the task; others may have an auxiliary one.
Importing this file registers the classes with the auto classes of transformers; the first `LinkedConfig` does that.
Letters: B batch, L length, D width, C classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils.generic import ModelOutput

from chainft.errors import ConfigError, ModelError
from chainft.models.load import body_options
from chainft.stages.exits import EarlyExit
from chainft.stages.inject import Entrance
from chainft.stages.links_config import Link, LinkedConfig, StageModelConfig
from chainft.stages.own_connectors import make_connector
from chainft.stages.stage_modules import STAGE_CLASSES


class ScalarMix(nn.Module):
    """scale * sum_j softmax(weights)_j * h_j (Peters et al. 2018, arXiv:1802.05365, equation 1)."""

    def __init__(self, num_sources: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_sources))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """(B, L, D) of `num_sources` tensors of that shape."""
        mixed = torch.stack([share * one for share, one in zip(self.weights.softmax(0), hidden, strict=True)])
        return self.scale * mixed.sum(0)


class LinkedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A chain of models. Parameters are named `stages.<stage>.`, `connectors.<stage>.<source>.`, `mixes.<stage>.`"""

    config_class = LinkedConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    config: LinkedConfig
    auto_class: ClassVar[str]
    """The auto class whose head the last stage has."""

    def __init__(self, config: LinkedConfig, stages: Mapping[str, PreTrainedModel] | None = None) -> None:
        """`stages`: the loaded models; without them, their weights are random.

        Raises ModelError for the config of a chain with another kind of head, ConfigError for stages that no module
        can be named after.
        """
        super().__init__(config)
        if config.auto_class != self.auto_class:
            raise ModelError(
                f"the linked models have the head of {config.auto_class}, not of {self.auto_class}",
                slug="wrong-architecture",
                help=f"load them by {config.auto_class}.from_pretrained",
            )
        # Before there are modules: it would draw their weights anew.
        self.post_init()  # type: ignore[no-untyped-call]
        self.links = config.links()
        _check_names(self.links)
        self.connectors = nn.ModuleDict(
            {name: _connectors(name, self.links) for name, link in self.links.items() if link.connected}
        )
        self.mixes = nn.ModuleDict(
            {name: ScalarMix(len(link.sources)) for name, link in self.links.items() if link.is_mix}
        )
        made = stages or {name: self._make(name) for name in self.links}
        self.stages = nn.ModuleDict({name: made[name] for name in self.links})
        self._entrances = {name: Entrance(made[name]) for name in self.links}
        self._left_out: tuple[str, ...] = ()
        self._lent: Mapping[str, Tensor] = {}
        self.set_ties(config.ties)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput:
        """The output of the last stage; inputs are (B, L), and each stage gets those that its model takes.

        In training it has `auxiliary`, a tuple of (weight, output) of the auxiliary heads. Otherwise, with
        `exit_confidence`, rows leave at the first auxiliary head that is sure of them; then it has `logits` only.
        """
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        if input_ids is None or return_dict is False:
            raise ValueError("linked models take input_ids, and give a ModelOutput only")
        inputs = {"input_ids": input_ids} | {name: tensor for name, tensor in given.items() if tensor is not None}
        if self.config.exit_confidence is not None and not self.training:
            return self._forward_with_exits(inputs)
        hidden: dict[str, Tensor] = dict(self._lent)
        auxiliary = []
        output = None
        for name, link in self._computed():
            last = {"labels": labels} if labels is not None and name == list(self.links)[-1] else {}
            output, hidden[name] = self.run_stage(name, {**inputs, **last}, hidden)
            if link.auxiliary is not None:
                auxiliary.append((link.auxiliary, output))
        assert isinstance(output, ModelOutput)
        if auxiliary and self.training:
            output["auxiliary"] = tuple(auxiliary)
        return output

    def run_stage(self, name: str, inputs: Mapping[str, Tensor], hidden: Mapping[str, Tensor]) -> tuple[Any, Tensor]:
        """One stage's output and the last hidden states of its body; `hidden` are those of the stages before it."""
        taken = inspect.signature(self.stages[name].forward).parameters
        own = {key: tensor for key, tensor in inputs.items() if key in taken}
        return self._entrances[name].run(own, self.received(name, hidden), residual=self.links[name].residual)

    @contextmanager
    def beginning_after(self, stages: Sequence[str], hidden: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the context the forward pass leaves out leading stages; `hidden` (B, L, D): what later ones read of them."""
        self._left_out, self._lent = tuple(stages), dict(hidden)
        try:
            yield
        finally:
            self._left_out, self._lent = (), {}

    def _computed(self) -> list[tuple[str, Link]]:
        """The stages that the forward pass computes."""
        return [(name, link) for name, link in self.links.items() if name not in self._left_out]

    def received(self, name: str, hidden: Mapping[str, Tensor]) -> Tensor | None:
        """(B, L, D) what a stage receives, in the width of its block 0; None for the first."""
        link = self.links[name]
        if not link.sources:
            return None
        parts = [self._connect(name, source, hidden[source]) for source in link.sources]
        if not link.is_mix:
            return parts[0]
        mixed: Tensor = self.mixes[name](parts)
        return mixed

    def set_ties(self, ties: Mapping[str, str]) -> None:
        """Make parameters of different stages one, and remember it in the config; those of a stage itself too."""
        self.config.ties = dict(ties)
        self._tied_weights_keys = dict(ties)
        self.all_tied_weights_keys = dict(ties)
        for name, stage in self.stages.items():
            own = getattr(stage, "all_tied_weights_keys", None) or {}
            self.all_tied_weights_keys |= {f"stages.{name}.{one}": f"stages.{name}.{to}" for one, to in own.items()}
        self.tie_weights(recompute_mapping=False)

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """Raises ModelError where a file holds two values for what was one parameter."""
        super().tie_weights(missing_keys=missing_keys, recompute_mapping=recompute_mapping)
        for name, to in self.config.ties.items() if missing_keys is not None else ():  # Not None: weights were read.
            if self.get_parameter(name) is not self.get_parameter(to):
                raise ModelError(
                    f"{name} and {to} were one parameter when the model was saved, and now differ",
                    slug="broken-tie",
                    where=self.config.name_or_path or None,
                    help="bring the original model.safetensors back; another tool changed one of them",
                )

    def get_input_embeddings(self) -> nn.Module:
        """Those of the first stage."""
        first = self.stages[next(iter(self.links))]
        assert isinstance(first, PreTrainedModel)
        found: nn.Module = first.get_input_embeddings()
        return found

    def _make(self, name: str) -> PreTrainedModel:
        """A stage's model without its weights."""
        link = self.links[name]
        has_head = link.auxiliary is not None or name == list(self.links)[-1]
        auto = getattr(transformers, self.auto_class) if has_head else transformers.AutoModel
        architecture = link.architecture()
        options = {} if has_head else body_options(architecture)
        made: PreTrainedModel = auto.from_config(
            architecture, trust_remote_code=False, dtype=torch.get_default_dtype(), **options
        )
        return made

    def _connect(self, name: str, source: str, hidden: Tensor) -> Tensor:
        if source not in self.links[name].connected:
            return hidden
        connected: Tensor = self.connectors[name][source](hidden)  # type: ignore[index]
        return connected

    def _forward_with_exits(self, inputs: Mapping[str, Tensor]) -> ModelOutput:
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        multi_label = self.config.problem_type == "multi_label_classification"
        exits = EarlyExit(float(self.config.exit_confidence or 0.0), mask, multi_label=multi_label)
        hidden: dict[str, Tensor] = dict(self._lent)
        for name, link in self._computed():
            output, hidden[name] = self.run_stage(name, inputs, hidden)
            if link.auxiliary is not None:
                keep = exits.leave(output.logits)
                if exits.is_over:
                    return _only_logits(output, exits.merged(None))
                inputs = {key: keep(tensor) for key, tensor in inputs.items()}
                hidden = {key: keep(tensor) for key, tensor in hidden.items()}
        return _only_logits(output, exits.merged(output.logits))


class LinkedForTokenClassification(LinkedModel):  # type: ignore[no-untyped-call]
    """Linked models with a head over tokens."""

    auto_class = "AutoModelForTokenClassification"


class LinkedForSequenceClassification(LinkedModel):  # type: ignore[no-untyped-call]
    """Linked models with a head over texts."""

    auto_class = "AutoModelForSequenceClassification"


class LinkedForQuestionAnswering(LinkedModel):  # type: ignore[no-untyped-call]
    """Linked models with a head for the place of an answer."""

    auto_class = "AutoModelForQuestionAnswering"


class LinkedForCausalLM(LinkedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """Linked decoders. Generation keeps no keys and values: each new token runs the whole text again."""

    auto_class = "AutoModelForCausalLM"

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor]:
        """All tokens, (B, L); positions begin at the first that the mask shows, since prompts are padded left."""
        if attention_mask is None:
            return {"input_ids": input_ids}
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": positions}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


LINKED_CLASSES: Mapping[str, type[LinkedModel]] = {
    kind.auto_class: kind
    for kind in (
        LinkedForTokenClassification,
        LinkedForSequenceClassification,
        LinkedForQuestionAnswering,
        LinkedForCausalLM,
    )
}
"""Auto class -> the linked models with its head."""


def stage_of(parameter: str) -> str:
    """The stage that a parameter of a `LinkedModel` belongs to.

    >>> stage_of("connectors.second.first.weight")
    'second'
    """
    return parameter.split(".")[1]


def _connectors(name: str, links: Mapping[str, Link]) -> nn.ModuleDict:
    return nn.ModuleDict({one: _connector(links[name], links[one].width_out) for one in links[name].connected})


def _connector(link: Link, width_in: int) -> nn.Module:
    if link.connector is not None:
        return make_connector(link.connector, width_in, link.width_in)
    return _linear(width_in, link.width_in)


def _linear(width_in: int, width_out: int) -> nn.Linear:
    """A linear map that starts as the identity where the widths are equal, else random; its bias starts at 0."""
    layer = nn.Linear(width_in, width_out)
    nn.init.zeros_(layer.bias)
    if width_in == width_out:
        nn.init.eye_(layer.weight)
    return layer


def _only_logits(output: Any, logits: Tensor) -> ModelOutput:
    """An output of the same kind that has nothing but these."""
    made: ModelOutput = type(output)(logits=logits)
    return made


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if hasattr(nn.ModuleDict, name) or hasattr(nn.ModuleDict(), name):
            raise ConfigError(
                f"no linked stage can be named {name!r}: torch's modules use that name",
                slug="bad-name",
                key=f"chain.stages.{name}",
                help=f"call it {name}_ or something else",
            )


for _config, _classes in ((LinkedConfig, LINKED_CLASSES), (StageModelConfig, STAGE_CLASSES)):
    for _auto_class, _kind in _classes.items():
        getattr(transformers, _auto_class).register(_config, _kind, exist_ok=True)
