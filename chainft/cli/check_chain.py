"""`chainft check chain ...`: does the chain compute what the whole model computes? Before any training."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from chainft.cli.flags import Given
from chainft.errors import ModelError

if TYPE_CHECKING:
    from chainft.stages.chain import Chain
    from chainft.train.chain_check import Check


def run_check_chain(given: Given) -> int:
    """Check as the words say; exit code 4 where the stages differ from the whole. Raises ChainftError."""
    from chainft.config.compose import compose

    config = compose(given.words[1:]).config
    from chainft.report.logs import setup_logging
    from chainft.report.progress import PhaseProgress
    from chainft.train.chain_check import check_chain

    setup_logging(None)
    with PhaseProgress() as phase:
        chain, checks = check_chain(config, progress=phase.update)
    if given.has("json"):
        stages = chain.describe()
        sys.stdout.write(json.dumps({"stages": stages, "checks": [asdict(one) for one in checks]}) + "\n")
    else:
        _print(chain, checks)
    return 0 if all(one.passed for one in checks) else ModelError.exit_code


def _print(chain: Chain, checks: list[Check]) -> None:
    from rich.table import Table

    from chainft.report.console import output
    from chainft.report.plan_words import stage_line

    console = output()
    console.print(f"{type(chain.model).__name__} in {len(chain.parts)} stages", highlight=False)
    for stage in chain.describe():
        console.print(f"  {stage['name']}  {stage_line(stage)}", highlight=False, markup=False)
    table = Table("check", "found", "", box=None, header_style="bold", pad_edge=False)
    for one in checks:
        table.add_row(one.what, one.found, "ok" if one.passed else "FAILED")
    console.print()
    console.print(table, highlight=False)
