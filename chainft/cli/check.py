"""`chainft check data key=value ...`: reads the data as `train` would and reports what is wrong with them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from chainft.errors import ConfigError, did_you_mean


def run(arguments: list[str]) -> int:
    """Parse the command line, check, print; 3 where an error was found."""
    options = _parser().parse_args(arguments)
    if options.what != "data":
        raise ConfigError(
            f"there is nothing {options.what!r} to check; there is: data",
            slug="unknown-check",
            where=options.what,
            help=did_you_mean(options.what, ["data"]) or "chainft check data task=...",
        )
    from chainft.config.compose import compose

    config = compose(options.overrides).config
    from chainft.report.console import print_data_card, print_findings
    from chainft.report.logs import setup_logging
    from chainft.report.progress import PhaseProgress
    from chainft.train.prepare import examine

    setup_logging(None)
    with PhaseProgress() as phase:
        card, findings = examine(config, tokenised=not options.no_tokenizer, progress=phase.update)
    has_errors = any(finding.severity == "error" for finding in findings)
    if options.json:
        sys.stdout.write(json.dumps(card, ensure_ascii=False) + "\n")
    else:
        print_data_card(card)
        print_findings([asdict(finding) for finding in findings])
        if not findings:
            sys.stdout.write("no findings\n")
    return 3 if has_errors else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chainft check",
        description="Read the data as 'chainft train' would, and report labels, duplicates, leaks and lengths.",
        epilog="examples:\n"
        "  chainft check data task=ner data=conll data.train=train.conll data.test=test.conll\n"
        "  chainft check data task=classify data=csv data.train=train.csv --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="data", help="what to check")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings as of 'chainft train'")
    parser.add_argument(
        "--no-tokenizer", action="store_true", help="leave out lengths, which need the model's tokenizer"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser
