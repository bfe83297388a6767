"""Where `chain.split: auto` cuts: measured once, kept in the run folder, so that a resumed run has the same stages."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path

from transformers import PreTrainedModel

from chainft.config.chain import ChainConfig
from chainft.data.store import FeatureStore
from chainft.errors import CheckpointError
from chainft.plan.balance import balanced_cuts
from chainft.run_folder import write_json
from chainft.stages.blocks import find_blocks
from chainft.stages.measure import block_bytes, block_seconds
from chainft.stages.spans import equal_spans
from chainft.tasks.base import Task

logger = logging.getLogger(__name__)

FILE = "chain.json"
MEASURED_ROWS = 8


def chain_cuts(
    chain: ChainConfig, model: PreTrainedModel, task: Task, store: FeatureStore, folder: Path | None
) -> list[int] | None:
    """The cuts of `split: auto` (None for every other chain): those of the run, or new ones, which are written there."""
    if chain.split != "auto" or chain.num_stages is None:
        return None
    file = folder / FILE if folder else None
    num_blocks = find_blocks(model).num_blocks
    if file is not None and file.is_file():
        return _kept(file, chain.num_stages, num_blocks)
    if chain.num_stages > num_blocks:
        equal_spans(find_blocks(model).map, chain.num_stages)  # Raises what it raises for a number given outright.
    if chain.balance == "memory":
        costs = block_bytes(model)
    else:
        rows = list(range(min(MEASURED_ROWS, len(store))))
        batch = task.collate([store[row] for row in rows], rows)
        costs = block_seconds(model, task.arguments(batch.to(model.device)))
    cuts = balanced_cuts(costs, chain.num_stages)
    logger.info("chain.split=auto cuts at blocks %s", ", ".join(map(str, cuts[1:-1])))
    if file is not None:
        write_json(file, {"cuts": cuts, "costs": costs, "balance": chain.balance or "time"})
    return cuts


def _kept(file: Path, num_stages: int, num_blocks: int) -> list[int]:
    """The cuts that a run made. Raises CheckpointError for a file that is not as the run wrote it."""
    try:
        cuts: list[int] = json.loads(file.read_text(encoding="utf-8"))["cuts"]
        ends = len(cuts) == num_stages + 1 and (cuts[0], cuts[-1]) == (0, num_blocks)
        sound = ends and all(before < after for before, after in pairwise(cuts))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, str(error)) from error
    if not sound:
        raise _damaged(file, f"cuts = {cuts} do not make {num_stages} stages of {num_blocks} blocks")
    return cuts


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{file.name} is damaged: {reason}",
        slug="damaged",
        where=str(file),
        key="chain.split",
        help="bring the file back as the run wrote it, or start a new run",
    )
