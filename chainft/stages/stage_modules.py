"""A module of a plug-in as a model that transformers knows, of one block: whatever holds for linked models holds for it.

It has no embeddings: what enters block 0 is what the stage receives, and zeros stand there until then. Where a head is
wanted, it is one linear layer on its hidden states. Letters: B batch, L length, D widths, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from chainft.config.chain import ChainConfig, StageKindConfig
from chainft.config.parse import dump, parse
from chainft.errors import ChainftError, ConfigError
from chainft.models.foreign_modules import check_module
from chainft.registry import find
from chainft.stage_kinds.base import Stage
from chainft.stages.inject import Entrance
from chainft.stages.links_config import StageModelConfig
from chainft.stages.skeleton import fill_with_ghosts
from chainft.tasks.base import Task

KEY = "kind"


def find_stage(settings: Mapping[str, Any]) -> Stage:
    """The plug-in that `settings` name. Raises ConfigError where no installed package brings it, or its settings are
    others by now."""
    config = parse(StageKindConfig, settings, at=KEY)
    found: Stage = find("stage", config.name, key=f"{KEY}.name")(config)
    return found


def make_stage(settings: Mapping[str, Any], width_in: int, width_out: int) -> nn.Module:
    """A new module (B, L, `width_in`), (B, L) -> (B, L, `width_out`) of the plug-in that `settings` name.

    Raises ConfigError as `find_stage` does, and where it makes another shape or lets padding change what tokens get.
    """
    stage = find_stage(settings)
    what = f"stage {stage.config.name!r}"
    hidden, mask = torch.zeros(2, 3, width_in), torch.tensor([[1, 1, 1], [1, 1, 0]])
    made = check_module(stage.build(width_in), [(hidden, mask)], width_out, what=what, key=f"{KEY}.name")
    if not hidden.is_meta:
        _check_padding(made, hidden, mask, what)
    return made


def with_modules_between(
    chain: ChainConfig, task: Task, models: Mapping[str, PreTrainedModel], *, hollow: bool = False
) -> dict[str, PreTrainedModel]:
    """All stages in their order: the given models of some, and new ones for those that are modules of plug-ins.

    `hollow`: these have no weights (`chainft.stages.skeleton`). Raises ConfigError for a module that cannot be used.
    """
    found: dict[str, PreTrainedModel] = {}
    for name in chain.order:
        kind = chain.stages[name].kind
        if kind is None:
            found[name] = models[name]
            continue
        auto = getattr(transformers, task.auto_class if chain.has_head(name) else "AutoModel")
        with _placed(f"chain.stages.{name}"):
            config = _config_of(kind, list(found.values()), task)
            with torch.device("meta") if hollow else nullcontext():
                found[name] = auto.from_config(config, trust_remote_code=False, dtype=torch.float32)
        if hollow:
            fill_with_ghosts(found[name])
            found[name].train(False)
    return found


@contextmanager
def _placed(stage: str) -> Iterator[None]:
    """Let errors about a stage's module say where it is chosen."""
    try:
        yield
    except ChainftError as error:
        error.problems = tuple(replace(one, key=f"{stage}.{one.key}") for one in error.problems)
        raise


def _config_of(kind: StageKindConfig, before: Sequence[PreTrainedModel], task: Task) -> StageModelConfig:
    first, last = before[0].config, before[-1].config
    width_in = last.hidden_size if isinstance(last, StageModelConfig) else Entrance(before[-1]).widths()[1]
    settings = dump(kind)
    width: Any = find_stage(settings).width(width_in)
    if type(width) is not int or width < 1:
        raise ConfigError(
            f"stage {kind.name!r} cannot be used: width() gave {width!r}, not a number of at least 1",
            slug="broken-plugin",
            key=f"{KEY}.name",
        )
    marks = {"eos_token_id": first.eos_token_id, "pad_token_id": first.pad_token_id}
    size = int(first.get_text_config().vocab_size)
    return StageModelConfig(settings, width_in, width, size, **{**marks, **task.model_options()})


def _check_padding(module: nn.Module, hidden: Tensor, mask: Tensor, what: str) -> None:
    mode, state = module.training, torch.random.get_rng_state()
    module.train(False)
    padded = hidden + (1 - mask).unsqueeze(-1)
    real = mask.bool()
    with torch.no_grad():
        same = torch.equal(module(hidden, mask)[real], module(padded, mask)[real])
    module.train(mode)
    torch.random.set_rng_state(state)
    if not same:
        raise ConfigError(
            f"{what} cannot be used: what stands in padding changes what it gives for tokens",
            slug="broken-plugin",
            key=f"{KEY}.name",
            help="let it read the attention mask",
        )


class StageBlock(GradientCheckpointingLayer):  # type: ignore[no-untyped-call]
    """The one block: the module of the plug-in."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L, D)"""
        found: Tensor = self.module(hidden_states, attention_mask)
        return found


class StageModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The body. Parameters are named `blocks.0.module.`"""

    config_class = StageModelConfig
    base_model_prefix = "body"
    supports_gradient_checkpointing = True
    config: StageModelConfig

    def __init__(self, config: StageModelConfig) -> None:
        """Raises what `make_stage` raises."""
        super().__init__(config)
        self.post_init()  # type: ignore[no-untyped-call]  # Before there are modules: it would draw their weights anew.
        module = make_stage(config.kind, config.width_in, config.hidden_size)
        self.blocks = nn.ModuleList([StageBlock(module)])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """`input_ids` (B, L) say how many rows and tokens there are; without a mask, all of them are tokens."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        kind = next((one.dtype for one in self.parameters() if one.is_floating_point()), torch.float32)
        entered = torch.zeros(*input_ids.shape, self.config.width_in, dtype=kind, device=input_ids.device)
        return BaseModelOutput(last_hidden_state=self.blocks[0](entered, mask))

    def get_input_embeddings(self) -> Any:
        """None: it reads no tokens."""
        return None


class HeadedStage(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The body with a linear layer, `classifier`, on it."""

    config_class = StageModelConfig
    base_model_prefix = "body"
    supports_gradient_checkpointing = True
    config: StageModelConfig

    def __init__(self, config: StageModelConfig) -> None:
        super().__init__(config)
        self.post_init()  # type: ignore[no-untyped-call]
        self.body = StageModel(config)
        assert config.num_labels is not None
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def scores(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, L, C)"""
        found: Tensor = self.classifier(self.body(input_ids, attention_mask)[0])
        return found

    def get_input_embeddings(self) -> Any:
        """None: it reads no tokens."""
        return None


class StageForTokenClassification(HeadedStage):  # type: ignore[no-untyped-call]
    """Scores of each token."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> TokenClassifierOutput:
        """`labels` (B, L), -100 where there is none."""
        logits = self.scores(input_ids, attention_mask)
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(loss=loss, logits=logits)


class StageForSequenceClassification(HeadedStage):  # type: ignore[no-untyped-call]
    """Scores of a text: of the mean of its tokens."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """`labels` (B,) or (B, C)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.body(input_ids, mask)[0]
        shares = (mask / mask.sum(1, keepdim=True).clamp(min=1)).unsqueeze(-1).to(hidden.dtype)
        logits = self.classifier((hidden * shares).sum(1))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class StageForQuestionAnswering(HeadedStage):  # type: ignore[no-untyped-call]
    """Scores of each token to begin and to end the answer."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> QuestionAnsweringModelOutput:
        """Two scores a token, (B, L) each."""
        start, end = self.scores(input_ids, attention_mask).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


STAGE_CLASSES: Mapping[str, type[PreTrainedModel]] = {
    "AutoModel": StageModel,
    "AutoModelForTokenClassification": StageForTokenClassification,
    "AutoModelForSequenceClassification": StageForSequenceClassification,
    "AutoModelForQuestionAnswering": StageForQuestionAnswering,
}
"""Auto class -> the stage with its head."""
