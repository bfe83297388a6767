"""Several heads on one trunk: models of one architecture with different heads that share everything below these.

The models stay plain Hugging Face models, each of which runs by itself; their bodies have the same modules. `JointModel`
runs the trunk once for all rows of a batch and hands its last hidden states to each head, whose model's own forward
pass computes the rest. Letters: B rows, b of them of one head, L tokens (l of them in the longest of the b), D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from chainft.errors import ModelError
from chainft.stages.blocks import find_blocks
from chainft.stages.families import check_family
from chainft.stages.gates import probe_inputs, without_cache
from chainft.stages.sharing import copy_depth

Parts = Mapping[str, tuple[Tensor, Mapping[str, Tensor]]]
"""Head -> places (b,) of its rows in the batch, and the inputs (b, l) of its model for them."""


class JointModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Models that share a trunk. Parameters are named `heads.<name>.` and the name in that model."""

    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, heads: Mapping[str, PreTrainedModel]) -> None:
        """`heads` share their trunk from here on: that of the first. Raises ModelError where they do not fit."""
        first = next(iter(heads.values()))
        super().__init__(first.config)
        # Before there are modules: it would draw their weights anew.
        self.post_init()  # type: ignore[no-untyped-call]
        for name, model in heads.items():
            check_family(model)
            _check_like(name, model, first)
            share_trunk(model, first)
        self.heads = nn.ModuleDict(dict(heads))
        self._blocks = find_blocks(cast(PreTrainedModel, first.base_model)).stacks[0].path
        """Path of the blocks in the body."""
        self._check_heads()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        parts: Parts | None = None,
    ) -> dict[str, ModelOutput]:
        """Head -> its model's output for its rows; without `parts`, every head answers for all rows.

        Inputs are (B, L). Texts are padded on the right, so that rows may be cut to their own longest.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
        }
        inputs = {name: tensor for name, tensor in given.items() if tensor is not None}
        if parts is None:
            rows = torch.arange(len(input_ids), device=input_ids.device)
            parts = dict.fromkeys(self.heads, (rows, inputs))
        last = self._trunk(inputs)
        return {name: self._answer(name, last, *part) for name, part in parts.items()}

    def head(self, name: str) -> PreTrainedModel:
        """The whole model with one head."""
        return cast(PreTrainedModel, self.heads[name])

    def whole(self, name: str) -> PreTrainedModel:
        """The model with one head, its config as deep as the trunk is now: a chain may have repeated blocks."""
        head = self.head(name)
        copy_depth(self.config, head.config)
        return head

    def wholes(self) -> dict[str, PreTrainedModel]:
        """The whole model with each head, by what the names of its parameters begin with here."""
        return {f"heads.{name}.": self.whole(name) for name in self.heads}

    def in_head(self, name: str) -> str:
        """The name that a parameter or block of the trunk has in the model of each head."""
        return name.removeprefix(f"heads.{next(iter(self.heads))}.")

    def get_input_embeddings(self) -> nn.Module:
        """Those of the trunk."""
        found: nn.Module = self.head(next(iter(self.heads))).get_input_embeddings()
        return found

    def _check_heads(self) -> None:
        """Raise ModelError for a model that asks something else of its trunk than the others: Longformer for texts lets
        the first token see all others, and for tokens not (modeling_longformer.py, `LongformerForSequenceClassification`).
        """
        modes = {name: self.head(name).training for name in self.heads}
        self.train(False)
        with torch.no_grad():
            inputs = probe_inputs(self)
            together = self(**inputs)
            for name in self.heads:
                alone = self.head(name)(**inputs, **without_cache(self.head(name)))
                pairs = zip(logits_of(together[name]), logits_of(alone), strict=True)
                if not all(torch.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in pairs):
                    raise _other_trunk(name, self.head(name))
        for name, mode in modes.items():
            self.head(name).train(mode)
        self.train(any(modes.values()))

    def _trunk(self, inputs: Mapping[str, Tensor]) -> Any:
        """What the last block gives: (B, L, D), or a tuple that begins with that."""
        body = self.head(next(iter(self.heads))).base_model
        blocks = self._list(body)
        block = blocks[-1]
        tap = _Tap(block)
        blocks[-1] = tap  # No hook: recomputed blocks would run it again in the backward pass.
        try:
            body(**inputs, **without_cache(cast(PreTrainedModel, body)))
        finally:
            blocks[-1] = block
        return tap.last_output

    def _answer(self, name: str, last: Any, rows: Tensor, inputs: Mapping[str, Tensor]) -> Any:
        model = self.head(name)
        length = inputs["input_ids"].shape[1]
        hidden, *rest = last if isinstance(last, tuple) else (last,)
        given = (hidden[rows, :length], *[None] * len(rest))
        with _skipped(self._list(model.base_model), given if isinstance(last, tuple) else given[0]):
            return model(**inputs, **without_cache(model))

    def _list(self, body: nn.Module) -> nn.ModuleList:
        found = body.get_submodule(self._blocks)
        assert isinstance(found, nn.ModuleList)
        return found


def share_trunk(model: PreTrainedModel, owner: PreTrainedModel) -> None:
    """Give the body of `model` the modules of the body of `owner`; what only it has, such as a pooler, stays its own."""
    if model is not owner:
        _share(model.base_model, owner.base_model)
        if _like(model.base_model, owner.base_model):
            setattr(model, model.base_model_prefix, owner.base_model)


def trunk_names(model: PreTrainedModel, other: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """Names in the two models of each parameter and buffer that both bodies have."""
    mine = dict(_tensors(model.base_model))
    for name, _ in _tensors(other.base_model):
        if name in mine:
            yield f"{model.base_model_prefix}.{name}", f"{other.base_model_prefix}.{name}"


def logits_of(output: Any) -> list[Tensor]:
    """The logits of a model's output (of starts and of ends, where it points to stretches), or of all of its heads."""
    if hasattr(output, "start_logits"):
        return [output.start_logits, output.end_logits]
    if hasattr(output, "logits"):
        return [output.logits]
    return [logits for one in output.values() for logits in logits_of(one)]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _check_like(name: str, model: PreTrainedModel, first: PreTrainedModel) -> None:
    """Raise ModelError for a model whose blocks no other head can read."""
    if model.config.is_encoder_decoder:
        raise ModelError(
            f"{type(model).__name__} is an encoder-decoder, whose heads read the decoder and not one text",
            slug="unsupported-by-model",
            key="model.path",
            help="learn tasks together on an encoder or a decoder",
        )
    if type(model.base_model) is not type(first.base_model) or model.base_model is model:
        raise ModelError(
            f"{type(model).__name__} (task {name!r}) has the body {type(model.base_model).__name__}, "
            f"{type(first).__name__} has {type(first.base_model).__name__}: they share no trunk",
            slug="unlike-trunks",
            key="model.path",
            help="learn the tasks in runs of their own, or take another architecture",
        )
    find_blocks(model)


def _other_trunk(name: str, model: PreTrainedModel) -> ModelError:
    return ModelError(
        f"{type(model).__name__} (task {name!r}) makes its trunk compute something else than the other heads do",
        slug="unlike-trunks",
        key="model.path",
        help="learn the tasks in runs of their own, or take another architecture",
    )


def _share(mine: nn.Module, theirs: nn.Module) -> None:
    for name, child in list(mine.named_children()):
        other = theirs._modules.get(name)
        if other is not None and _like(child, other):
            mine._modules[name] = other
        elif other is not None:
            _share(child, other)
    for name, parameter in list(mine._parameters.items()):
        other_parameter = theirs._parameters.get(name)
        if parameter is not None and other_parameter is not None and parameter.shape == other_parameter.shape:
            mine._parameters[name] = other_parameter


def _like(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same parts, of the same kinds and shapes."""
    return _outline(one) == _outline(other)


def _outline(module: nn.Module) -> list[tuple[str, object]]:
    kinds: list[tuple[str, object]] = [(name, type(one)) for name, one in module.named_modules(remove_duplicate=False)]
    return kinds + [(name, tensor.shape) for name, tensor in _tensors(module)]


@contextmanager
def _skipped(blocks: nn.ModuleList, output: Any) -> Iterator[None]:
    """For the time of a call, blocks compute nothing and give `output`."""
    real = list(blocks)
    for place, block in enumerate(real):
        blocks[place] = _Skipped(block, output)
    try:
        yield
    finally:
        for place, block in enumerate(real):
            blocks[place] = block


class _Stand(nn.Module):
    """Stands for a block; attributes that the model reads are the block's."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block  # A module, so that a parent which looks for a parameter's type finds one.

    def __getattr__(self, name: str) -> Any:
        block = self.__dict__["_modules"]["block"]
        return block if name == "block" else getattr(block, name)


class _Tap(_Stand):
    """Lets its block compute and keeps what it gives; of a block that is called several times (ALBERT), the last."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__["last_output"] = self.block(*args, **kwargs)
        return self.__dict__["last_output"]


class _Skipped(_Stand):
    """Gives what it was told; models with windows of attention (Longformer) want it as long as their own, on the right."""

    def __init__(self, block: nn.Module, output: Any) -> None:
        super().__init__(block)
        self.__dict__["given_output"] = output  # No name that the block may have.

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.__dict__["given_output"]
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        own: Tensor = args[0] if args else kwargs["hidden_states"]
        missing = own.shape[1] - hidden.shape[1]
        padded = functional.pad(hidden, (0, 0, 0, missing)) if missing else hidden
        return (padded, *rest) if isinstance(output, tuple) else padded
