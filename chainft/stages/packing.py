"""Batches without padding: the rows of a batch go through the blocks end to end, as one sequence.

Everything in a block but attention treats tokens one by one, so only attention needs to know where rows begin: in its
place runs one that attends within rows, a few rows of like length at a time. The head gets the hidden states padded
again. That a model allows this is tried, not assumed: see `packing_of`. Letters: B rows, T tokens of all rows, L tokens
of the longest, R tokens whose last hidden states are read, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.errors import ChainftError
from chainft.models.device import is_out_of_memory
from chainft.stages.compiled import Compiled
from chainft.stages.cuda_graphs import Graphs
from chainft.stages.gates import Gates, Payload, probe_inputs
from chainft.stages.int8 import unrounded
from chainft.stages.last_block import find_queries, narrowing
from chainft.stages.modes import evaluating, training
from chainft.stages.packed_attention import TRIAL, attending, configs_of, register
from chainft.stages.packed_layout import Layout
from chainft.stages.prologue import Idle, find_idle
from chainft.stages.rounding import alike
from chainft.stages.spans import Span
from chainft.stages.token_head import TokenHead

logger = logging.getLogger(__name__)

_PROBE_LENGTHS = (9, 4, 7, 4)
_WORTH_QUICK = 0.5
"""Share of read tokens from which on a last block that is compiled, or played, computes for all."""
_TOLERANCE_16 = 0.03
"""Most difference of what attention gives a token, beside its size, in 16 bits (bfloat16 rounds to 1 in 256)."""


States = Callable[[np.ndarray], Tensor]
"""From an order of the rows (B,) to hidden states of their tokens end to end, (T, D)."""


class Packing:
    """Runs batches of a model without padding."""

    def __init__(self, gates: Gates, first_position: int) -> None:
        """`first_position`: the number of the first position of a text, which is not 0 for RoBERTa and its kin."""
        self.gates = gates
        self._first = first_position
        self._configs = configs_of(gates.model)
        self.longest: int | None = None
        """Rows must be shorter than this: the least window of attention."""
        self.has_kernel = False
        """Whether a GPU's kernel attends for rows of different length at once; found by `try_kernel`."""
        self.compiled: Compiled | None = None
        """The blocks that are compiled in training."""
        self.graphs: Graphs | None = None
        """Passes of training that a GPU plays."""
        self.num_blocks = gates.blocks.num_blocks
        self._head = Span(self.num_blocks, self.num_blocks, embeddings=False, head=True)
        self._token_head = TokenHead(gates.model, self.head, first_position)

    @cached_property
    def _idle(self) -> Sequence[Idle]:
        """What the model computes for nothing before blocks that are given what comes from elsewhere."""
        inputs = probe_inputs(self.gates.model)
        before = Span(0, self.num_blocks, embeddings=True, head=False)
        with evaluating(self.gates.model), torch.no_grad():
            payload = self.gates.run(before, None, inputs)
        return find_idle(self.gates, self._head, payload)

    def takes(self, lengths: np.ndarray) -> bool:
        """Whether rows of these lengths can run so."""
        return self.longest is None or int(lengths.max()) < self.longest

    def run(
        self,
        inputs: Mapping[str, Any],
        lengths: np.ndarray,
        *,
        states: States | None = None,
        start: int = 0,
        read: np.ndarray | None = None,
    ) -> Any:
        """The model's output for a padded batch with rows of these lengths.

        `states`: what goes into block `start`; None: the embeddings. `read` (B, L): the tokens whose last hidden states
        the head reads, or the loss after it; for all others the head gets zeros. None: all. Raises ValueError where there
        is no block `start`.
        """
        if start >= self.num_blocks:
            raise ValueError(f"there is no block {start} of {self.num_blocks}: give last hidden states to `head`")
        layout = Layout(lengths, self.gates.model.device, read if self._narrows(read, lengths) else None)
        hidden = self.hidden(inputs, layout, states=states, start=start)
        if self._token_head.takes(inputs):
            return self._token_head(hidden, inputs, layout)
        return self.head(layout.unpack(hidden), inputs)

    @property
    def has_token_head(self) -> bool:
        """Whether the head runs for read tokens alone; found by `try_head`."""
        return self._token_head.is_by_tokens

    def try_head(self) -> None:
        """Find out whether the head treats tokens one by one. Accelerate must not have the model yet."""
        if not self.has_token_head:
            inputs, lengths = _probe(self.gates.model)
            num_types = getattr(self.gates.model.config.get_text_config(), "type_vocab_size", None) or 1
            if num_types > 1:
                drawn = np.random.default_rng(1).integers(0, num_types, tuple(inputs["input_ids"].shape))
                inputs["token_type_ids"] = torch.from_numpy(drawn).to(self.gates.model.device)
            self._token_head.find_out(inputs, lengths)

    def _narrows(self, read: np.ndarray | None, lengths: np.ndarray) -> bool:
        """Whether the last block computes for read tokens alone; compiled, or played, it would for all, in half the time
        or less."""
        if read is None or not read.any():
            return False
        share = int(read.sum()) / int(lengths.sum())
        is_quick = self.compiled is not None and self.compiled.is_running
        is_quick |= self.graphs is not None and self.graphs.takes(int(lengths.sum()))
        return share < (_WORTH_QUICK if is_quick else 1.0)

    def head(self, hidden: Tensor, inputs: Mapping[str, Any]) -> Any:
        """The model's output for last hidden states (B, L, D)."""
        with self._left_out():
            return self.gates.run(self._head, Payload(hidden), inputs)

    def hidden(
        self, inputs: Mapping[str, Any], layout: Layout, *, states: States | None = None, start: int = 0
    ) -> Tensor:
        """(1, T, D) what the last block gives, or (1, R, D) where not all tokens are read and the block allows it."""
        packed = self._packed(inputs, layout)
        received = None if states is None else states(layout.order)[None]
        last = self.num_blocks - 1
        if layout.read is None or self.queries is None:
            return self._whole_blocks(start, last + 1, received, packed, layout)
        if received is None or start < last:
            received = self._whole_blocks(start, last, received, packed, layout)
        return self._last_block(received, packed, layout, self.queries)

    def _whole_blocks(
        self, start: int, stop: int, received: Tensor | None, packed: Mapping[str, Tensor], layout: Layout
    ) -> Tensor:
        """As `_blocks`, played by a GPU where it can be."""
        graphs = self.graphs
        if graphs is None or not graphs.takes(int(layout.lengths.sum())) or start == stop:
            return self._blocks(start, stop, received, packed, layout)
        if received is None:
            received = self._blocks(0, 0, None, packed, layout)
        blocks = [self.gates.blocks.module(block) for block in range(start, stop)]
        if not received.requires_grad and not any(one.requires_grad for block in blocks for one in block.parameters()):
            graphs.is_idle = True  # There is no backward pass.
            return self._blocks(start, stop, received, packed, layout)
        longest = graphs.longest

        def run(hidden: Tensor, inputs: Mapping[str, Tensor], ends: Tensor) -> Tensor:
            return self._blocks(start, stop, hidden, inputs, layout, bounds=(ends, longest))

        return graphs((start, stop), run, received, packed, layout.lengths[layout.order])

    @unrounded()
    def try_kernel(self, dtype: torch.dtype) -> None:
        """Find out whether attention runs by a GPU's kernel for rows of different length, under autocast to `dtype`.

        All attention must, and give what it gives without it, also for read tokens alone; and a backward pass in
        training must run.
        """
        inputs, lengths = _probe(self.gates.model)
        device = self.gates.model.device
        read = np.zeros((len(lengths), lengths.max()), bool)
        read[[0, 0, 2], [0, 5, 6]] = True
        tried: list[tuple[Tensor | None, Tensor | None]] = []
        layouts = [Layout(lengths, device), *([] if self.queries is None else [Layout(lengths, device, read)])]
        self.has_kernel = True
        fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        try:
            with torch.autocast(device.type, dtype), fork:
                for layout in layouts:
                    layout.made[TRIAL] = tried
                    with evaluating(self.gates.model), torch.no_grad():
                        self.hidden(inputs, layout)
                self._try_backward(inputs, Layout(lengths, device))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # A kernel that this GPU has for other heads only, for one.
            logger.warning("attention without padding does not run on %s: %s", device, str(error).splitlines()[0])
            tried.append((None, None))
        self.has_kernel = bool(tried) and all(
            found is not None
            and expected is not None
            and alike(found.float(), expected.float(), tolerance=_TOLERANCE_16)
            for found, expected in tried
        )

    def _try_backward(self, inputs: Mapping[str, Tensor], layout: Layout) -> None:
        """Training with dropout, as it is configured; also of blocks that are frozen, which may be trained later."""
        blocks = nn.ModuleList([self.gates.blocks.module(block) for block in range(self.num_blocks)])
        packed = self._packed(inputs, layout)
        # Only the blocks are in training: tables of trained words know those of the data alone.
        with evaluating(self.gates.model), training(blocks), torch.enable_grad():
            received = self._blocks(0, 1, None, packed, layout).detach().requires_grad_()
            hidden = self._blocks(0, self.num_blocks, received, packed, layout)
            torch.autograd.grad(hidden.float().sum(), received)

    @cached_property
    def queries(self) -> Sequence[nn.Module] | None:
        """Modules of the last block that compute for read tokens alone; None where it computes for all tokens only.

        Tried against the block as it is: with several rows, and with one token of one row.
        """
        inputs, lengths = _probe(self.gates.model)
        one = {name: tensor[:1] for name, tensor in inputs.items()}
        try:
            found = self._try_last_block(inputs, lengths, every=5)
            again = None if found is None else self._try_last_block(one, lengths[:1], every=9)
        except (TypeError, ValueError, IndexError, RuntimeError):
            return None  # What the block computes beside attention needs all tokens.
        return found if found == again else None

    @unrounded()
    def _try_last_block(
        self, inputs: Mapping[str, Tensor], lengths: np.ndarray, *, every: int
    ) -> list[nn.Module] | None:
        """The modules, where every so many tokens of the probe are read; None where the block gives something else."""
        inside = np.arange(lengths.max())[None] < lengths[:, None]
        read = inside & (np.arange(inside.size) % every == every // 2).reshape(inside.shape)
        layout = Layout(lengths, self.gates.model.device, read)
        packed = self._packed(inputs, layout)
        last = self.num_blocks - 1
        with evaluating(self.gates.model), torch.no_grad():
            received = self._blocks(0, last, None, packed, layout)
            whole = self._blocks(last, last + 1, received, packed, layout)
            expected = whole[:, layout.read_places]

            def call(queries: Sequence[nn.Module], rest: float) -> Tensor:
                return self._last_block(received, packed, layout, queries, rest)

            if not alike(call([], 0.0), expected):
                return None
            return find_queries(self.gates.blocks.module(last), call, expected)

    def _packed(self, inputs: Mapping[str, Any], layout: Layout) -> dict[str, Tensor]:
        """The model's inputs (1, T)."""
        names = [name for name in ("input_ids", "token_type_ids") if name in inputs]
        packed = {name: layout.pack(inputs[name]) for name in names}
        return {**packed, "position_ids": layout.positions + self._first}

    def _blocks(
        self,
        start: int,
        stop: int,
        received: Tensor | None,
        packed: Mapping[str, Tensor],
        layout: Layout,
        *,
        bounds: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        """(1, T, D) what block `stop - 1` gives; `received` (1, T, D): what goes into `start`, None: the embeddings."""
        span = Span(start, stop, embeddings=received is None, head=False)
        payload = None if received is None else Payload(received)
        attention = attending(self._configs, layout, kernel=self.has_kernel, bounds=bounds)
        with nullcontext() if received is None else self._blocks_alone(), attention:
            found = self.gates.run(span, payload, packed)
        hidden: Tensor = found.hidden
        return hidden

    def _last_block(
        self,
        received: Tensor,
        packed: Mapping[str, Tensor],
        layout: Layout,
        queries: Sequence[nn.Module],
        rest: float = 0.0,
    ) -> Tensor:
        """(1, R, D)."""
        # What narrows a block is not part of its code.
        with (
            self.compiled.left_out() if self.compiled else nullcontext(),
            narrowing(layout.read_places, received.shape[1], queries, rest=rest),
        ):
            return self._blocks(self.num_blocks - 1, self.num_blocks, received, packed, layout)

    @contextmanager
    def _left_out(self) -> Iterator[None]:
        with ExitStack() as stack:
            for one in self._idle:
                stack.enter_context(one.left_out())
            yield

    @cached_property
    def _around(self) -> Sequence[nn.Module]:
        """Modules that are not in a block. Not embeddings, of which trained words alone are read in training."""
        blocks = [self.gates.blocks.module(block) for block in range(self.num_blocks)]
        inside = {module for block in blocks for module in block.modules()}
        return [one for one in self.gates.model.modules() if one not in inside and not isinstance(one, nn.Embedding)]

    @contextmanager
    def _blocks_alone(self) -> Iterator[None]:
        """Within the context what the model computes before its blocks draws no random numbers: it comes to nothing."""
        drawing = [one for one in self._around if one.training]
        for one in drawing:
            one.training = False  # Of itself alone.
        try:
            with self._left_out():
                yield
        finally:
            for one in drawing:
                one.training = True


@unrounded()
def packing_of(model: PreTrainedModel) -> Packing | None:
    """How batches of a model run without padding; None for a model that gives other hidden states then.

    Tried with a few rows of random words: relative positions, convolutions, windows of attention and the like show.
    """
    if model.config.is_encoder_decoder:
        return None
    register()
    try:
        gates = Gates(model)
        expected = _padded_states(gates)
    except (ChainftError, NotImplementedError):
        return None
    pad = model.config.get_text_config().pad_token_id or 0
    for first in dict.fromkeys((0, pad + 1)):
        packing = Packing(gates, first)
        found = _tried(packing)
        if found is not None and alike(found, expected):
            return packing
    return None


def _probe(model: PreTrainedModel) -> tuple[dict[str, Tensor], np.ndarray]:
    lengths = np.array(_PROBE_LENGTHS)
    config = model.config.get_text_config()
    pad = config.pad_token_id or 0
    words = np.random.default_rng(0).integers(5, config.vocab_size, (len(lengths), lengths.max()))
    mask = np.arange(lengths.max())[None] < lengths[:, None]
    ids = np.where(mask, np.where(words == pad, 5, words), pad)
    device = model.device
    return {
        "input_ids": torch.from_numpy(ids).to(device),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device),
    }, lengths


def _padded_states(gates: Gates) -> Tensor:
    """(T, D) of the probe, padded, without the padding."""
    inputs, _ = _probe(gates.model)
    span = Span(0, gates.blocks.num_blocks, embeddings=True, head=False)
    with evaluating(gates.model), torch.no_grad():
        hidden = gates.run(span, None, inputs).hidden
    found: Tensor = hidden[:, : inputs["input_ids"].shape[1]][inputs["attention_mask"].bool()]
    return found


def _tried(packing: Packing) -> Tensor | None:
    """The same, packed; None where the model cannot be run so."""
    inputs, lengths = _probe(packing.gates.model)
    layout = Layout(lengths, packing.gates.model.device)
    try:
        with evaluating(packing.gates.model), torch.no_grad():
            hidden = layout.unpack(packing.hidden(inputs, layout))
        packing.longest = min(layout.windows, default=None)
    except (TypeError, ValueError, IndexError, RuntimeError, LookupError):
        return None  # No `position_ids`, another attention, positions beyond the table, ...
    return hidden[inputs["attention_mask"].bool()]
