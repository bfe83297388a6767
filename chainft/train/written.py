"""What a run writes down of itself before it trains: its config, its data, and what its checkpoints are known by."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from chainft.config.anchor import anchored
from chainft.config.compose import Composed
from chainft.config.document import to_yaml
from chainft.report.console import print_findings
from chainft.run_folder import RunFolder, write_json, write_text
from chainft.train.environment import environment_facts
from chainft.train.prepare import Prepared

logger = logging.getLogger(__name__)


def write_config(composed: Composed, folder: RunFolder) -> None:
    """The config, the words of the command line that made it (those of the first command stay), and the machine."""
    write_text(folder.config, to_yaml(anchored(composed.unresolved)))
    if not composed.config.resume or not folder.overrides.is_file():
        write_text(folder.overrides, to_yaml(list(composed.overrides)))
    write_json(folder.environment, environment_facts())


def write_data_facts(prepared: Prepared, folder: RunFolder) -> None:
    """The data card and rows that were left out; what was found is printed."""
    write_json(folder.path / "data_card.json", dict(prepared.card))
    rejected = prepared.splits.rejected
    if rejected:
        lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in rejected]
        write_text(folder.path / "rejected.jsonl", "".join(lines))
        logger.warning("%d malformed rows left out: see rejected.jsonl", len(rejected))
    print_findings([asdict(finding) for finding in prepared.findings if finding.severity != "info"])


def facts_of(prepared: Prepared, *, other_data: bool) -> dict[str, Any]:
    """What every checkpoint of the run holds beside its state."""
    return {
        "data": prepared.splits.fingerprint,
        "other_data": other_data,
        "labels": list(prepared.task.labels.names),
        "environment": environment_facts(),
    }


def flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys with plain values, which every tracker takes."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{at}.{key}" if at else key
        if isinstance(value, Mapping):
            found.update(flat(value, path))
        else:
            found[path] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
