"""`chainft join NAME=RUN_FOLDER ... --output FOLDER`: runs over one frozen trunk as one model with a head for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chainft.cli.arguments import Parser
from chainft.errors import ConfigError
from chainft.run_folder import model_folder


def run(arguments: list[str]) -> int:
    """Parse the command line, compare the trunks, write the folder."""
    options = _parser().parse_args(arguments)
    runs = _named_runs(options.runs)
    if options.output.exists():
        raise ConfigError(
            f"{str(options.output)!r} exists already",
            slug="output-exists",
            where=f"--output {options.output}",
            help="choose another name, or remove it",
        )
    for path in runs.values():
        model_folder(path)
    from chainft.infer.trained import join_runs
    from chainft.report.logs import setup_logging

    setup_logging(None)
    joined = join_runs(runs, options.output)
    print(f"{', '.join(runs)}: one trunk, {len(runs)} heads in {options.output}")
    print(f"  chainft predict {joined.folder} 'Your text here.'")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "chainft join",
        description="Put runs that were trained one by one over the same frozen trunk into one model: a text then goes "
        "through the trunk once, for all heads. Refused where the trunks are not equal bit by bit.",
        epilog="examples:\n"
        "  chainft train task=ner chain=frozen_base chain.stages.top.blocks=head chain.stages.base.blocks='embeddings, :'\n"
        "  chainft join entities=runs/2026-01-01_12-00-00_ner intent=runs/2026-01-01_12-10-00_classify --output both\n"
        '  chainft predict both "Where is my order?"',
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_FOLDER", help="a name of your own, and a finished run")
    parser.add_argument("--output", type=Path, required=True, help="the new folder")
    return parser


def _named_runs(words: Sequence[str]) -> dict[str, Path]:
    runs: dict[str, Path] = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not separator or not name.isidentifier() or not path:
            raise ConfigError(
                f"{word!r} is not NAME=RUN_FOLDER", slug="bad-arguments", where=word, help="such as intent=runs/FOLDER"
            )
        if name in runs:
            raise ConfigError(f"two runs are named {name!r}", slug="duplicate", where=word, help="give each its own")
        runs[name] = Path(path)
    if len(runs) < 2:
        raise ConfigError("only one run is given, and at least two are joined", slug="bad-arguments", where=words[0])
    return runs
