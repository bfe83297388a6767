"""Word embeddings of which only the rows that occur in the training data are trained: exactly what training all does.

A row whose word never occurs has no gradient, so the optimizer never has state for it and only its weight decay changes
it. The rows that occur are a small parameter of their own, so that gradients, clipping and the optimizer do not go
through the whole table. The table itself is brought up to date whenever it is read: evaluated or saved.
Letters: V words of the table, A that occur, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from chainft.config.run import OptimizerConfig
from chainft.stages.chain import Chain
from chainft.stages.links import LinkedModel

WORTH = 0.7
"""Where more than this share of the words occurs, the whole table is trained: there is little to save."""
_IN_CACHE = 1 << 16
"""Numbers of the table that are multiplied together: 256 KiB."""
_DECOUPLED = ("adamw", "lion")
"""Optimizers that change a row without gradient and state by decoupled weight decay alone."""
_STILL = (*_DECOUPLED, "adam", "nadam", "radam", "sgd", "rmsprop", "adagrad")
"""Optimizers that leave such a row as it is, where there is no weight decay."""


class WordTable:
    """Trains the rows `active` of an embedding in place of its weight, until `dissolve`."""

    def __init__(self, module: nn.Embedding, active: Tensor) -> None:
        """`active`: (A,) sorted numbers of the rows."""
        self.module = module
        self.active = active
        self.place = torch.full((module.num_embeddings,), -1, dtype=torch.long, device=active.device)
        self.place[active] = torch.arange(len(active), device=active.device)
        self.rows = nn.Parameter(module.weight.detach()[active].clone())
        """(A, D)"""
        self._stale = False
        self._factors: list[float] = []
        """Of the updates since the table was read."""
        padding = module.padding_idx
        self._padding = None if padding is None or self.place[padding] < 0 else int(self.place[padding])
        module.weight.requires_grad_(False)
        setattr(module, "forward", self._forward)  # noqa: B010 - of this module alone, not of its class
        hooks: Any = module  # torch has no types for these.
        self._hooks = (
            hooks.register_state_dict_pre_hook(lambda *_: self.update()),
            hooks.register_load_state_dict_post_hook(lambda *_: self._reread()),
        )

    def update(self) -> None:
        """Write the trained rows into the table."""
        if self._stale:
            with torch.no_grad():
                self._catch_up()
                self.module.weight.index_copy_(0, self.active, self.rows)
            self._stale = False

    def decay(self, factor: float, *, unless: Tensor | None = None) -> None:
        """What the optimizer's weight decay does to the rows that have no gradient; after each update.

        `unless`: () where it is 1, on the device, nothing is done. On a CPU the table is multiplied when it is read
        next, by one factor after the other as ever: a few rows at a time, which stay in its caches.
        """
        self._stale = True
        if factor != 1.0 and unless is None and self.module.weight.device.type == "cpu":
            self._factors.append(factor)
        elif factor != 1.0:
            with torch.no_grad():
                by = factor if unless is None else factor + (1.0 - factor) * unless
                self.module.weight.mul_(by)  # Of the rows that are trained, it is written over.

    def whole(self, state: Tensor) -> Tensor:
        """(V, D) of the optimizer's state (A, D): it has none for the other rows."""
        found = state.new_zeros((self.module.num_embeddings, *state.shape[1:]))
        found[self.active.to(state.device)] = state
        return found

    def dissolve(self) -> None:
        """Let the embedding be as it was, with what was learned."""
        self.update()
        del self.module.forward
        for hook in self._hooks:
            hook.remove()
        self.module.weight.requires_grad_(True)

    def _forward(self, ids: Tensor) -> Tensor:
        """(B, L, D) of (B, L) in training; everything else reads the table."""
        if self.module.training and torch.is_grad_enabled():
            return functional.embedding(self.place[ids], self.rows, self._padding)
        self.update()
        return functional.embedding(ids, self.module.weight, self.module.padding_idx)

    def _catch_up(self) -> None:
        count = max(1, _IN_CACHE // self.module.embedding_dim)
        for rows in torch.split(self.module.weight, count) if self._factors else ():
            for factor in self._factors:
                rows.mul_(factor)
        self._factors.clear()

    def _reread(self) -> None:
        self._factors.clear()
        with torch.no_grad():
            self.rows.copy_(self.module.weight[self.active])
        self._stale = False


def word_tables(
    model: PreTrainedModel, chain: Chain, config: OptimizerConfig, ids: Sequence[np.ndarray]
) -> list[WordTable]:
    """The tables of a model that are worth it and where it is exact. `ids`: all token ids that training will see."""
    seen = torch.from_numpy(np.unique(np.concatenate([np.asarray(one, dtype=np.int64).ravel() for one in ids])))
    tables = [WordTable(module, seen.to(module.weight.device)) for module in _embeddings(model, chain, config, seen)]
    chain.partly |= {id(table.module.weight) for table in tables}
    return tables


def _embeddings(model: PreTrainedModel, chain: Chain, config: OptimizerConfig, seen: Tensor) -> Iterator[nn.Embedding]:
    models = model.stages.values() if isinstance(model, LinkedModel) else [model]
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    found: dict[int, Any] = {}
    for one in models:
        assert isinstance(one, PreTrainedModel)
        module = one.get_input_embeddings()
        if (
            _is_plain(module)
            and not one.config.is_encoder_decoder
            and _paths(model, module) == uses[id(module.weight)]
        ):
            found[id(module)] = module
    for module in found.values():
        trained = module.weight.requires_grad and id(module.weight) not in chain.later
        if trained and len(seen) <= WORTH * module.num_embeddings and _is_exact(id(module.weight), chain, config):
            yield module


def _is_plain(module: Any) -> bool:
    """Scaled and other embeddings compute something more."""
    plain = type(module) is nn.Embedding
    return plain and module.max_norm is None and not module.scale_grad_by_freq and not module.sparse


def _paths(model: nn.Module, module: nn.Module) -> int:
    """Under how many names a module stands; its weight may have more where something else reads it, such as a head."""
    return sum(one is module for _, one in model.named_modules(remove_duplicate=False))


def _is_exact(weight: int, chain: Chain, config: OptimizerConfig) -> bool:
    rate = chain.rates().get(weight)
    decay = config.weight_decay if rate is None or rate.weight_decay is None else rate.weight_decay
    name = config.name.strip().casefold()
    return name in (_STILL if decay == 0 else _DECOUPLED) and not (config.options.get("maximize"))


def stand_ins(tables: Sequence[WordTable]) -> Mapping[int, nn.Parameter]:
    """Id of each table's weight -> the parameter that is trained in its place."""
    return {id(table.module.weight): table.rows for table in tables}
