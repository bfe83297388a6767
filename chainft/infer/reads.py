"""Which tokens' last hidden states a task reads: the first of each text, the last, or those with a target.

Not declared but tried on the task itself, with a few rows of the data and random hidden states: a rule holds where the
loss stays the same with NaN in place of all other hidden states, and has no gradient there; of rows without targets,
where what the task makes of the output stays the same, and no number of the output that is read has a gradient there.
Where an output has numbers for each token, those of other tokens may be anything. Letters: B rows, L tokens, D width.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from chainft.data.batching import Batch, feature_lengths
from chainft.data.store import FeatureStore
from chainft.stages.loss import loss_of
from chainft.stages.modes import evaluating
from chainft.stages.packing import Packing
from chainft.tasks.base import Arrays, Task

Rule = Callable[[Batch], np.ndarray]
"""(B, L) which tokens of a batch are read."""

_PROBE_ROWS = 16
_NOISE = 30.0
_DRAWS = 2
_PROBE_TOKENS = 1024
"""Most tokens of a probe, padding included, for a loss over a large vocabulary; two rows at least."""


@dataclass(frozen=True)
class Reads:
    """What is read of a batch, by the task that reads it."""

    rules: Mapping[str, Rule]
    """Of several tasks by their names, of one task under ""; a task without a rule reads all tokens."""

    def of(self, batch: Batch) -> np.ndarray:
        """(B, L)."""
        if not batch.shares:
            return self.rules[""](batch)
        read = np.zeros(tuple(batch.inputs["input_ids"].shape), bool)
        for name, share in batch.shares.items():
            own = self.rules[name](share.batch) if name in self.rules else _inside(share.batch)  # (b, l)
            read[share.rows.cpu().numpy(), : own.shape[1]] |= own
        return read


def find_reads(
    packing: Packing, task: Task, rows: FeatureStore | Sequence[Arrays], *, answers: bool = False
) -> Reads | None:
    """The rules that hold; None where all tokens are read, or the last block computes for all of them only.

    `answers`: of what evaluation makes of the output too. What says which tokens is there only what it cannot do without:
    a target tells which have a known answer, and an answer is wanted for all.
    """
    if len(rows) < 2:
        return None
    batch = probe_batch(task, rows)
    if not answers and not _has_targets(batch):
        return None
    rules: dict[str, Rule] = {}
    for name in batch.shares or ("",):
        part = replace(batch, shares={name: batch.shares[name]}) if name else batch
        rule = _rule(name, packing, task, part, answers=answers)
        if rule is not None:
            rules[name] = rule
    if not rules or packing.queries is None:
        return None
    packing.try_head()
    return Reads(rules)


def _rule(name: str, packing: Packing, task: Task, batch: Batch, *, answers: bool) -> Rule | None:
    """The rule with fewest tokens. Of targets those with any that holds: two that are the same for known tags may not
    be for others."""

    def holds(rule: Rule) -> bool:
        return _holds(Reads({name: rule}), packing, task, batch, answers=answers)

    pad = packing.gates.model.config.get_text_config().pad_token_id
    # Of an output for each token, a few short rows may make it seem that their first tokens alone are read.
    whole_texts = () if _is_by_tokens(packing, task, batch) else (_first, partial(_last, pad_token_id=pad))
    for one in whole_texts:
        if holds(one):
            return one
    own = task.tasks.get(name, task)
    found = [
        rule
        for column, rule in _by_target(own)
        if (not answers or _is_needed(column, packing, task, batch)) and holds(rule)
    ]
    return (lambda batch: np.logical_or.reduce([one(batch) for one in found])) if found else None


def _by_target(task: Task) -> Iterator[tuple[str, Rule]]:
    """Columns that say something of each token, with the rule that those are read of which they do."""
    for name, column in task.features.items():
        if column.axis is not None and not column.model_input and isinstance(column.pad, int):
            yield name, _with_value(name, column.pad)


def _is_by_tokens(packing: Packing, task: Task, batch: Batch) -> bool:
    """Whether the head gives something for each token."""
    model = packing.gates.model
    inside = torch.from_numpy(_inside(batch))
    with evaluating(model), torch.no_grad():
        output = packing.head(_hidden(packing, tuple(inside.shape)), task.arguments(batch.to(model.device)))
    return any(isinstance(one, torch.Tensor) and _is_for_tokens(one, inside) for one in tree_leaves(output))


def _is_needed(column: str, packing: Packing, task: Task, batch: Batch) -> bool:
    """Whether the task makes nothing of an output without a column."""
    model = packing.gates.model
    shares = {name: replace(one, batch=_without(column, one.batch)) for name, one in batch.shares.items()}
    moved = replace(_without(column, batch), shares=shares).to(model.device)
    with evaluating(model), torch.no_grad():
        output = packing.head(_hidden(packing, _inside(batch).shape), task.arguments(moved))
    try:
        _raw(task, output, moved)
    except (LookupError, TypeError, AttributeError):
        return True
    return False


def _without(column: str, batch: Batch) -> Batch:
    return replace(batch, targets={name: one for name, one in batch.targets.items() if name != column})


def _first(batch: Batch) -> np.ndarray:
    read = np.zeros_like(_inside(batch))
    read[:, 0] = True
    return read


def _last(batch: Batch, pad_token_id: int | None) -> np.ndarray:
    """The last token that is not the pad token: what heads for texts on a decoder take (transformers,
    modeling_layers.py, `GenericForSequenceClassification`)."""
    ids = batch.inputs["input_ids"].cpu().numpy()
    there = _inside(batch) if pad_token_id is None else ids != pad_token_id
    last = np.where(there, np.arange(ids.shape[1])[None], 0).argmax(axis=1)
    read: np.ndarray = np.arange(ids.shape[1])[None] == last[:, None]
    return read


def _with_value(name: str, pad: int) -> Rule:
    def rule(batch: Batch) -> np.ndarray:
        inside = _inside(batch)
        target = batch.targets.get(name)
        if target is None or target.shape != inside.shape:
            return inside
        read: np.ndarray = target.cpu().numpy() != pad
        return read

    return rule


def _inside(batch: Batch) -> np.ndarray:
    """(B, L) where there is a token."""
    length = batch.inputs["input_ids"].shape[1]
    mask: np.ndarray = np.arange(length)[None] < batch.lengths.numpy()[:, None]
    return mask


def probe_batch(task: Task, rows: FeatureStore | Sequence[Arrays]) -> Batch:
    """A few rows from all over the data, rather short ones."""
    spread = np.unique(np.linspace(0, len(rows) - 1, 2 * _PROBE_ROWS).astype(int))
    drawn = [rows[int(place)] for place in spread]
    lengths = feature_lengths(drawn)
    order = np.argsort(lengths, kind="stable")[:_PROBE_ROWS]
    padded = np.arange(1, len(order) + 1) * lengths[order]
    chosen = order[: max(2, int((padded <= _PROBE_TOKENS).sum()))]
    return task.balanced([task.collate([drawn[i] for i in chosen], spread[chosen].tolist())])[0]


def _has_targets(batch: Batch) -> bool:
    return all(share.batch.has_targets for share in batch.shares.values()) if batch.shares else batch.has_targets


def _holds(reads: Reads, packing: Packing, task: Task, batch: Batch, *, answers: bool) -> bool:
    model = packing.gates.model
    moved = batch.to(model.device)
    read = reads.of(batch)
    if not read.any() or (read | ~_inside(batch)).all():
        return False
    hidden = _hidden(packing, read.shape).requires_grad_()
    others = torch.from_numpy(~read).to(model.device)
    with evaluating(model):
        output = packing.head(hidden, task.arguments(moved))
        with torch.no_grad():
            alone = packing.head(hidden.masked_fill(others[..., None], math.nan), task.arguments(moved))
            if answers and not _answers_alike(task, moved, output, [alone, *_noisy(output, others)]):
                return False
        has_targets = _has_targets(moved)
        value = loss_of(task, output, moved) if has_targets else _squares(output, ~others)
        if value is None:
            return False
        (gradient,) = torch.autograd.grad(value, hidden)
        with torch.no_grad():
            same = not has_targets or torch.allclose(loss_of(task, alone, moved), value, rtol=1e-6)
    reached: np.ndarray = gradient.ne(0).any(-1).cpu().numpy()  # (B, L)
    rows = np.flatnonzero(read.any(axis=1))
    all_rows = bool(reached[rows].any(axis=1).all())  # A row without a target would tell nothing.
    return all_rows and not reached[~read].any() and same


def _hidden(packing: Packing, shape: tuple[int, ...]) -> torch.Tensor:
    """(B, L, D) made-up last hidden states."""
    model = packing.gates.model
    width = model.config.get_text_config().hidden_size
    drawn = torch.randn(*shape, width, generator=torch.Generator().manual_seed(0))
    return drawn.to(model.device, model.dtype)


def _squares(output: Any, read: torch.Tensor) -> torch.Tensor | None:
    """() what every number of an output moves, of those for each token that of the tokens `read` (B, L); None where
    hidden states move none."""
    found = [one[read] if _is_for_tokens(one, read) else one for one in tree_leaves(output) if _is_moved(one)]
    return torch.stack([one.float().square().sum() for one in found]).sum() if found else None


def _noisy(output: Any, others: torch.Tensor) -> Iterator[Any]:
    """The output with large random numbers for tokens `others` (B, L)."""
    generator = torch.Generator().manual_seed(0)

    def noisy(one: object) -> object:
        if not (_is_moved(one) and isinstance(one, torch.Tensor) and _is_for_tokens(one, others)):
            return one
        noise = torch.randn(one.shape, generator=generator).to(one.device, one.dtype) * _NOISE
        return torch.where(others.view(*others.shape, *[1] * (one.dim() - 2)), noise, one)

    for _ in range(_DRAWS):
        yield tree_map(noisy, output)


def _is_for_tokens(value: torch.Tensor, tokens: torch.Tensor) -> bool:
    return value.dim() > 2 and value.shape[:2] == tokens.shape


def _answers_alike(task: Task, batch: Batch, output: Any, others: Sequence[Any]) -> bool:
    """Whether the task makes of other outputs what it makes of this one."""
    expected = _raw(task, output, batch)
    return all(_raw(task, other, batch) == expected for other in others)


def _is_moved(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _raw(task: Task, output: Any, batch: Batch) -> bytes:
    """What the task makes of an output, in a form that can be compared whatever it is."""
    shares = {name: share.batch for name, share in batch.shares.items()}
    with torch.inference_mode():
        found = [task.tasks[name].raw(output[name], own) for name, own in shares.items()]
        return pickle.dumps(found or task.raw(output, batch))
