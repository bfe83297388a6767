"""Runs any span of a model's blocks by itself, without changing the model: what makes a stage a thing that computes.

The model's own forward pass runs unmodified: its masks, positions, head and everything else stay Hugging Face code.
Only for the time of one call each entry of its lists of blocks is a *gate*, which lets its block compute, passes the
hidden state by it, puts in the received one, or leaves the forward pass. Letters: B batch, L length, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from chainft.errors import ModelError
from chainft.models.device import is_recorded
from chainft.stages.blocks import Blocks, find_blocks
from chainft.stages.families import check_family, with_bias
from chainft.stages.random_state import RandomState
from chainft.stages.spans import Span


@dataclass(frozen=True)
class Payload:
    """What one stage hands to the next."""

    hidden: Tensor | None
    """(B, L, D) of the stack that is being computed; None between encoder and decoder."""
    encoder: Tensor | None = None
    """(B, L, D) output of the encoder, from its end on."""

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in (self.hidden, self.encoder) if tensor is not None)

    def apart(self) -> Payload:
        """The same values as leaves of a new graph, as another process would receive them."""
        hidden, encoder = (
            None if tensor is None else tensor.detach().requires_grad_() for tensor in (self.hidden, self.encoder)
        )
        return Payload(hidden, encoder)


class Gates:
    """A model whose spans can be run one by one. The model itself, its names and its state stay as they are."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises ModelError for a model without blocks that can be told apart, or of a family that is refused."""
        self.model = model
        check_family(model)
        self.blocks: Blocks = find_blocks(model)
        self._starts = [sum(stack.size for stack in self.blocks.stacks[:i]) for i in range(len(self.blocks.stacks))]
        self._gates = [
            [_Gate(entry, self._starts[number] + place, self._enter) for place, entry in enumerate(self._list(number))]
            for number in range(len(self.blocks.stacks))
        ]
        self._call: _Call | None = None
        self._without_cache = without_cache(model)
        self._forms = self._probe()

    def run(self, span: Span, payload: Payload | None, inputs: Mapping[str, Tensor]) -> Any:
        """The span's output: a `Payload`, or the model's own output where it ends with the head.

        `payload` is None exactly where the span begins with the embeddings; `inputs` are the batch of the whole model.
        Raises ModelError for a model in training that drops whole blocks at random.
        """
        call, arguments = self._begin(span, payload)
        with self._gated(call):
            try:
                output = self.model(**{**inputs, **arguments})
            except _Left as left:
                return left.payload
        if not span.head:
            raise RuntimeError(f"{type(self.model).__name__} did not come to the end of {span}")
        return output

    @contextmanager
    def beginning_with(self, span: Span, payload: Payload) -> Iterator[None]:
        """Within the context one call of the model's own forward pass, by whomever, is that of `span` on `payload`.

        The span ends with the head. Raises ModelError as `run` does.
        """
        call, arguments = self._begin(span, payload)

        def add(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, **arguments}

        handle = self.model.register_forward_pre_hook(add, with_kwargs=True)
        try:
            with self._gated(call):
                yield
        finally:
            handle.remove()

    def _begin(self, span: Span, payload: Payload | None) -> tuple[_Call, dict[str, Any]]:
        """The state of a call, and the arguments that the model gets beside its inputs."""
        check_layerdrop(self.model)
        call = _Call(span, self.blocks, payload, self._forms)
        if self.model.training and not is_recorded(self.model.device):
            call.random = RandomState.now(self.model.device)
        arguments: dict[str, Any] = {**self._without_cache}
        if call.seam is not None and payload is not None and payload.encoder is not None:
            arguments["encoder_outputs"] = BaseModelOutput(last_hidden_state=payload.encoder)
            call.encoder = payload.encoder
        return call, arguments

    @contextmanager
    def _gated(self, call: _Call) -> Iterator[None]:
        handles = []
        if call.seam is not None and call.span.start < call.seam:
            encoder = self.model.get_submodule(self.blocks.stacks[0].path.rpartition(".")[0])
            handles.append(encoder.register_forward_hook(call.encoder_done))
        real = [list(self._list(number)) for number in range(len(self.blocks.stacks))]
        self._call = call
        try:
            self._fill(self._gates)
            yield
        finally:
            self._fill(real)
            self._call = None
            for handle in handles:
                handle.remove()

    def _list(self, number: int) -> nn.ModuleList:
        found = self.model.get_submodule(self.blocks.stacks[number].path)
        assert isinstance(found, nn.ModuleList)
        return found

    def _fill(self, entries: list[list[Any]]) -> None:
        for number, several in enumerate(entries):
            modules = self._list(number)._modules
            for place, module in enumerate(several):
                modules[str(place)] = module

    def _enter(self, gate: _Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of a block: which one it is, and what its gate does."""
        assert self._call is not None
        if self.blocks.stacks[0].size != self.blocks.stacks[0].entries:
            return self._call.pass_block(self._call.count_up(), gate.block, args, kwargs)
        return self._call.pass_block(gate.number, gate.block, args, kwargs)

    def _probe(self) -> list[int | None]:
        """For each stack how its blocks return: None for a tensor, else the length of the tuple."""
        forms: dict[int, int | None] = {}

        def note(number: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                forms[number] = len(output) if isinstance(output, tuple) else None

            return hook

        handles = [
            self._list(number)[0].register_forward_hook(note(number)) for number in range(len(self.blocks.stacks))
        ]
        was_training = self.model.training
        self.model.train(False)
        try:
            with torch.no_grad():
                self.model(**probe_inputs(self.model), **without_cache(self.model))
        finally:
            self.model.train(was_training)
            for handle in handles:
                handle.remove()
        return [forms[number] for number in range(len(self.blocks.stacks))]


def probe_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """A batch of one short text that every architecture takes."""
    end = model.config.eos_token_id
    last = end[0] if isinstance(end, list) else end
    size = int(model.config.get_text_config().vocab_size)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 5 if last is None else last]], device=model.device) % size
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})


class _Left(Exception):
    """Leaves the forward pass with what the next stage gets."""

    def __init__(self, payload: Payload) -> None:
        super().__init__()
        self.payload = payload


class _Gate(nn.Module):
    """Stands for a block for the time of a call; attributes that the parent reads are the block's."""

    def __init__(self, block: nn.Module, number: int, enter: Callable[..., Any]) -> None:
        super().__init__()
        self.block = block  # A module of the gate, so that a parent which looks for a parameter's type finds one.
        self.number = number
        self.__dict__["enter"] = enter

    def __getattr__(self, name: str) -> Any:
        block = self.__dict__["_modules"]["block"]
        return block if name == "block" else getattr(block, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["enter"](self, args, kwargs)


class _Call:
    """The state of one run of a span."""

    def __init__(self, span: Span, blocks: Blocks, payload: Payload | None, forms: list[int | None]) -> None:
        self.span = span
        self.blocks = blocks
        self.num_blocks = blocks.num_blocks
        self.received = None if payload is None else payload.hidden
        self.seam = blocks.stacks[0].size if len(blocks.stacks) > 1 else None
        """Position between encoder and decoder."""
        self.encoder: Tensor | None = None
        self.random: RandomState | None = None
        """Where random numbers stood before the parent drew some for what comes to nothing, such as embeddings."""
        self._forms = forms
        self._calls = -1

    def count_up(self) -> int:
        self._calls += 1
        return self._calls

    def pass_block(self, number: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What happens at block `number`."""
        if number >= self.span.stop and not self.span.head:
            raise _Left(Payload(_hidden(args, kwargs), self.encoder if self._in_decoder(number) else None))
        if number < self.span.start:
            if number < self.num_blocks - 1 or self.received is None:
                return self._as_block_returns(_hidden(args, kwargs), number)
            self._rewind()
            return self._as_block_returns(self.received, number)
        if number == self.span.start and self.received is not None:
            self._rewind()
            changed = _with_hidden(self.received, args, kwargs)
            args, kwargs = with_bias(self.blocks, number, self.received, changed)
        output = block(*args, **kwargs)
        if number == self.num_blocks - 1 and not self.span.head:
            first = output[0] if isinstance(output, tuple) else output
            raise _Left(Payload(first, self.encoder))
        return output

    def encoder_done(self, _: nn.Module, __: Any, output: Any) -> None:
        """At the end of the encoder: leave where the span ends there, else keep its output for the payload."""
        self.encoder = output[0]
        if self.span.stop == self.seam and not self.span.head:
            raise _Left(Payload(None, self.encoder))

    def _rewind(self) -> None:
        """Let dropout go on with the numbers that it has in the whole model."""
        if self.random is not None:
            self.random.restore()

    def _in_decoder(self, number: int) -> bool:
        return self.seam is not None and number >= self.seam

    def _as_block_returns(self, hidden: Tensor, number: int) -> Any:
        form = self._forms[1 if self._in_decoder(number) else 0]
        return hidden if form is None else (hidden, *[None] * (form - 1))


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found


def _with_hidden(hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def check_layerdrop(model: PreTrainedModel) -> None:
    """Raise ModelError for a model in training that drops whole blocks at random."""
    names = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
    dropped = [name for name in names if getattr(model.config, name, 0.0)]
    if dropped and model.training:
        raise ModelError(
            f"{type(model).__name__} leaves out whole blocks in training ({dropped[0]} = "
            f"{getattr(model.config, dropped[0])}), so its stages cannot be run one by one",
            slug="layerdrop",
            key="model.path",
            help=f"set {dropped[0]} to 0 in the model's config.json",
        )


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """The argument that switches key-value caches off, for models that have them: a cache counts all blocks."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
