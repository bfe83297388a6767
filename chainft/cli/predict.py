"""`chainft predict RUN_FOLDER ...`: texts in, JSON lines out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from chainft.cli.arguments import Parser
from chainft.cli.collecting import importing
from chainft.errors import ConfigError, DataError, StorageError
from chainft.run_folder import model_folder


@dataclass(frozen=True)
class Source:
    """Where the texts come from."""

    name: str
    lines: Iterable[str]
    form: str
    interactive: bool = False


def run(arguments: list[str]) -> int:
    """Parse the command line, predict, print."""
    options = _parser().parse(arguments)
    model_folder(options.run)
    with ExitStack() as stack:
        source = _source(options)
        _keep_texts(options.file, options.output)
        output = _open_output(options.output, stack)
        with importing("chainft.infer.predict"):
            from chainft.infer.predict import predict
        from chainft.report.logs import setup_logging

        setup_logging(None, quiet=True)
        predictions = predict(
            options.run,
            source.lines,
            form="jsonl" if source.form == "jsonl" else "lines",
            source=source.name,
            batch_size=options.batch_size,
            interactive=source.interactive,
            precision=options.precision,
        )
        for prediction in predictions:
            output.write(json.dumps(prediction, ensure_ascii=False) + "\n")
            if source.interactive:
                output.flush()
        output.flush()
    return 0


def _parser() -> Parser:
    parser = Parser(
        "chainft predict",
        description="Predict with a trained run. Reads the words given, a file, or standard input; "
        "writes one JSON object a text, in the same order.",
        epilog="examples:\n"
        '  chainft predict runs/2026-01-01_12-00-00_ner "Ada Lovelace lived in London."\n'
        "  chainft predict runs/2026-01-01_12-00-00_ner --file texts.txt --output answers.jsonl\n"
        "  cat rows.jsonl | chainft predict runs/2026-01-01_12-00-00_classify --format jsonl",
    )
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="folder of a finished run, or its model/ folder")
    parser.add_argument("words", nargs="*", default=[], metavar="TEXT", help="the text itself")
    parser.add_argument("--file", type=Path, help="read texts from this file instead")
    parser.add_argument(
        "--format",
        choices=["lines", "jsonl"],
        help="lines: a text a line; jsonl: a JSON object a line with the task's columns "
        "(default: jsonl for files ending in .jsonl, else lines)",
    )
    parser.add_argument("--output", type=Path, help="write to this file instead of standard output")
    parser.add_argument("--batch-size", type=_positive, default=64, help="texts in one forward pass (default 64)")
    parser.add_precision()
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _source(options: argparse.Namespace) -> Source:
    if options.words and options.file:
        raise ConfigError(
            "give texts either as words or by --file, not both", slug="two-inputs", where=f"--file {options.file}"
        )
    if options.words:
        if options.format:
            raise ConfigError("--format has no effect on words of the command line", slug="no-effect")
        text = " ".join(options.words)
        if len(options.words) == 1 and Path(text).is_file():
            sys.stderr.write(f"note: {text!r} is taken as the text; to read the file, use --file {text}\n")
        return Source("the command line", [text], "lines")
    if options.file:
        form = options.format or ("jsonl" if options.file.suffix in (".jsonl", ".ndjson") else "lines")
        return Source(str(options.file), _file_lines(options.file), form)
    if sys.stdin.isatty():
        sys.stderr.write("type a text and press Enter; Ctrl-D ends\n")
    lines = decoded(sys.stdin.buffer, "standard input")
    return Source("standard input", lines, options.format or "lines", sys.stdin.isatty())


def _file_lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        kind = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{str(path)!r} {kind}", slug="no-file", where=f"--file {path}")
    return _decoded_file(path)


def _decoded_file(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as stream:
            yield from decoded(stream, str(path))
    except PermissionError as error:
        raise DataError(
            f"cannot read {str(path)!r}: {error.strerror}", slug="no-file", where=f"--file {path}"
        ) from error


def decoded(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines of UTF-8; a byte-order mark is dropped. Raises DataError with line and byte of what is not UTF-8."""
    for number, line in enumerate(stream, start=1):
        raw = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte {raw[error.start]:#04x} is not UTF-8",
                slug="not-utf8",
                where=f"{name}:{number}, byte {error.start + 1} of the line",
                help="convert the text to UTF-8, for example with iconv",
            ) from error


def _keep_texts(file: Path | None, output: Path | None) -> None:
    """Refuse to write over what is being read."""
    if file and output and file.exists() and output.exists() and file.samefile(output):
        raise ConfigError(
            f"--output {str(output)!r} is the file of the texts",
            slug="output-is-input",
            where=f"--output {output}",
            help="choose another name for the answers",
        )


def _open_output(path: Path | None, stack: ExitStack) -> TextIO:
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        return sys.stdout
    try:
        return stack.enter_context(path.open("w", encoding="utf-8", errors="backslashreplace"))
    except OSError as error:
        raise StorageError(
            f"cannot write {str(path)!r}: {error.strerror}", slug="write-failed", where=f"--output {path}"
        ) from error
