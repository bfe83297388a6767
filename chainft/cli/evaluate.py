"""`chainft evaluate RUN_FOLDER [key=value ...]`: scores of a trained run, on its own or other data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chainft.cli.arguments import Parser
from chainft.cli.collecting import importing
from chainft.errors import ConfigError


def run(arguments: list[str]) -> int:
    """Parse the command line, evaluate, print."""
    options = _parser().parse(arguments)
    from chainft.config.changes import check_evaluated
    from chainft.config.compose import load_run_config
    from chainft.config.saved import compose_saved, existing_run, for_split, has_split

    folder = existing_run(options.run)
    composed = compose_saved(folder, options.overrides)
    check_evaluated(load_run_config(folder.config), composed.config)
    if not has_split(composed.config.data, options.split):
        key = f"data.tasks.NAME.{options.split}" if "tasks" in composed.resolved["data"] else f"data.{options.split}"
        raise ConfigError(
            f"the run has no {options.split} data",
            slug="no-split",
            key=key,
            help=f"name a file by {key}=FILE",
        )
    config = for_split(composed, options.split).config
    with importing("chainft.infer.evaluate"):
        from chainft.infer.evaluate import evaluate_run
    from chainft.report.inspection import print_scores
    from chainft.report.logs import setup_logging
    from chainft.report.progress import PhaseProgress
    from chainft.train.finish import scores_to_json

    setup_logging(None)
    with PhaseProgress() as phase:
        done = evaluate_run(folder.path, config, options.split, precision=options.precision, progress=phase.update)
    record = {"run": str(folder.path), "split": options.split, "examples": done.num_examples}
    record |= {"precision": options.precision}
    record |= scores_to_json(done.scores)
    if options.json:
        sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    else:
        print_scores(record)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "chainft evaluate",
        description="Score the model of a finished run on a split of its data, or on other data.",
        epilog="examples:\n"
        "  chainft evaluate runs/2026-01-01_12-00-00_ner\n"
        "  chainft evaluate runs/2026-01-01_12-00-00_ner data.test=other.conll\n"
        "  chainft evaluate runs/2026-01-01_12-00-00_ner data=jsonl data.test=other.jsonl --json",
    )
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="folder of a finished run")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="settings laid over those of the run"
    )
    parser.add_argument("--split", choices=["train", "validation", "test"], default="test", help="default: test")
    parser.add_precision()
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser
