"""Whether a run may go on from a checkpoint with the data that it finds now."""

from __future__ import annotations

from chainft.config.run import RunConfig
from chainft.errors import CheckpointError
from chainft.train.prepare import Prepared
from chainft.train.saved import Checkpoint


def check_data(found: Checkpoint, prepared: Prepared, config: RunConfig) -> None:
    """Raise CheckpointError where the data are not those with which a checkpoint was made."""
    before, now = found.facts.get("labels"), list(prepared.task.labels.names)
    if before is not None and before != now:
        gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        raise CheckpointError(
            f"the data have other labels than when {found.path.name} was saved: "
            f"gone {', '.join(gone) or 'none'}; new {', '.join(new) or 'none'}",
            slug="labels-changed",
            where=str(found.path),
            key="data",
            help="the head of the saved model is for its labels: bring the old files back, or start a new run",
        )
    if found.facts["data"] != prepared.splits.fingerprint and not config.allow_data_change:
        raise CheckpointError(
            f"the data changed since {found.path.name} was saved",
            slug="data-changed",
            where=str(found.path),
            key="data",
            help="bring the old files back, start a new run, or accept it by allow_data_change=true",
        )
