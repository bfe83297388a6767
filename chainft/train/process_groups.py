"""Process groups that only some processes want, made by all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

Key = TypeVar("Key", bound=tuple[object, ...])


def new_groups(
    wanted: Mapping[Key, Sequence[int]], *, timeout: timedelta | None = None
) -> dict[Key, dist.ProcessGroup]:
    """The groups that this process wants, by key, each of the ranks given; every process calls this, at one time.

    Members want a group under the same key, of values that can be sorted. torch makes groups right only where all
    processes make all of them in one order: with `use_local_synchronization` their names hold how many groups a
    process has, so that members with different numbers of groups wait for each other for ever (torch 2.13,
    `_hash_ranks_to_str`).
    """
    everyones: list[dict[Any, tuple[int, ...]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyones, {key: tuple(ranks) for key, ranks in wanted.items()})
    found: dict[Key, dist.ProcessGroup] = {}
    for key, ranks in sorted({one for several in everyones for one in several.items()}):
        group = dist.new_group(list(ranks), timeout=timeout)
        if key in wanted:
            assert group is not None
            found[key] = group
    return found
