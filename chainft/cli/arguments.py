"""Arguments of the commands that take no settings first: argparse, with failures in chainft's one shape."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from chainft.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print its usage and leave."""

    def __init__(self, prog: str, *, description: str, epilog: str) -> None:
        super().__init__(
            prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        absent = message.removeprefix("the following arguments are required: ")
        if absent == message:
            raise ConfigError(message, slug="bad-arguments", help=f"see '{self.prog} --help'")
        help = f"{self.prog} {absent.replace(',', '')} ...; see '{self.prog} --help'"
        raise ConfigError(f"{absent} is required", slug="bad-arguments", help=help)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Flags may stand between the words. After `--` all are words, which Python 3.11 forgets where they may."""
        return self.parse_args(arguments) if "--" in arguments else self.parse_intermixed_args(arguments)

    def add_precision(self) -> None:
        """The flag of the commands that predict."""
        self.add_argument(
            "--precision",
            choices=["full", "int8"],
            default="full",
            help="arithmetic of the blocks: that of the saved weights (default), or 8-bit integers, which a CPU "
            "multiplies faster, with answers that differ a little",
        )
