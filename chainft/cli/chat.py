"""`chainft chat RUN_FOLDER`: talk with a trained model, in the terminal or through a pipe, a message a line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chainft.cli.collecting import importing
from chainft.cli.flags import HELP, Flag, Given, flag_lines, split
from chainft.errors import ChainftError, ConfigError, did_you_mean
from chainft.report.words import plural, printable
from chainft.run_folder import model_folder

if TYPE_CHECKING:
    from chainft.infer.chat import Chat
    from chainft.tasks.base import Prediction

FLAGS = (
    HELP,
    Flag(("--system",), "what the system says first", metavar="TEXT"),
    Flag(("--documents",), "look up passages of this folder's .txt and .md files for each message", metavar="FOLDER"),
    Flag(("--max-new-tokens",), "most tokens of an answer (default: as in the run)", metavar="N"),
    Flag(("--temperature",), "draw tokens, more freely the higher it is; 0: always the likeliest", metavar="X"),
    Flag(("--seed",), "other draws; the same conversation and seed give the same answers", metavar="N"),
    Flag(("--precision",), "arithmetic of the blocks (default: full)", choices=("full", "int8")),
)
_EXAMPLES = """
examples:
  chainft chat runs/2026-01-01_12-00-00_dialogue
  chainft chat runs/2026-01-01_12-00-00_dialogue --documents handbook --temperature 0.7 --seed 3
  printf 'Hello!\\nDo you open on Sundays?\\n' | chainft chat runs/2026-01-01_12-00-00_dialogue

A message a line; a line that begins with // is a message that begins with /. Commands:
"""
_COMMANDS = {
    "/reset": "forget the conversation, except for what the system says",
    "/undo": "take back the last message and its answer",
    "/system": "/system TEXT: let the system say that from now on; without TEXT: nothing",
    "/save": "/save FILE: add the conversation to a file, a JSON line that task=dialogue can train on",
    "/help": "these commands",
    "/quit": "leave; so does Ctrl-D. Ctrl-C stops an answer",
}


def run(arguments: list[str]) -> int:
    """Talk until the input ends. Through a pipe, what is wrong with a line ends the command."""
    given = split(arguments, FLAGS)
    if given.has("help") or not given.words:
        print(_help(), end="")
        return 0
    if len(given.words) > 1:
        raise ConfigError(
            f"{given.words[1]!r} is one word too many: chainft chat takes one run folder",
            slug="bad-arguments",
            where=given.words[1],
            help="messages come from the terminal or standard input",
        )
    folder = Path(given.words[0])
    model_folder(folder)
    numbers = _numbers(given)
    with importing("chainft.infer.chat"):
        from chainft.infer.chat import Choices, open_chat
    from chainft.report.logs import setup_logging

    setup_logging(None, quiet=True)
    whole = {name: int(numbers[flag]) for name, flag in _WHOLE.items() if flag in numbers}
    choices = Choices(
        **whole,
        temperature=numbers.get("temperature"),
        documents=given.flags.get("documents"),
        precision="int8" if given.flags.get("precision") == "int8" else "full",
    )
    chat = open_chat(folder, choices)
    desk = _Desk(chat, is_terminal=sys.stdin.isatty() and sys.stdout.isatty())
    if given.has("system"):
        desk.command("/system", given.flags["system"])
    desk.serve()
    return 0


_WHOLE = {"max_new_tokens": "max-new-tokens", "seed": "seed"}


def _numbers(given: Given) -> dict[str, float]:
    """The flags that are numbers. Raises ConfigError for one that is none, or out of its range."""
    found: dict[str, float] = {}
    for flag, least in (("max-new-tokens", 1), ("seed", 0), ("temperature", 0)):
        if given.has(flag):
            text = given.flags[flag]
            is_whole = text.isascii() and text.isdecimal()
            number = _decimal(text) if flag == "temperature" else float(text) if is_whole else None
            if number is None or not least <= number < 2**32:
                kind = "a number" if flag == "temperature" else "a whole number"
                raise ConfigError(
                    f"--{flag} {text}: expected {kind} from {least}", slug="bad-flag", where=f"--{flag} {text}"
                )
            found[flag] = number
    return found


def _decimal(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _help() -> str:
    commands = "\n".join(f"  {name:<10}{words}" for name, words in _COMMANDS.items())
    return (
        "chainft chat: talk with a trained model\n\nusage: chainft chat RUN_FOLDER [--flags]\n\nflags:\n"
        + "\n".join(flag_lines(FLAGS))
        + "\n"
        + _EXAMPLES
        + commands
        + "\n"
    )


@dataclass
class _Desk:
    """Reads lines, answers them; answers alone go to standard output, everything else to standard error."""

    chat: Chat
    is_terminal: bool
    turns_cut: int = 0

    def serve(self) -> None:
        """Until the end of the input or /quit."""
        if not self.chat.task.has_history:
            self.note(
                f"a run of task={self.chat.task.config.name}: each message is answered by itself, without history"
            )
        if self.is_terminal:
            self.note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves")
        for line in self._lines():
            if line.startswith("/") and not line.startswith("//"):
                name, _, rest = line.partition(" ")
                if name == "/quit":
                    return
                self._guarded(self.command, name, rest.strip())
            elif line.strip():
                self._guarded(self.answer, line.removeprefix("/") if line.startswith("//") else line)

    def command(self, name: str, rest: str) -> None:
        """Do what a line that begins with / says. Raises ConfigError for what is no command here."""
        if name in ("/reset", "/undo", "/system") and not self.chat.task.has_history:
            raise ConfigError(
                f"{name} has no effect: task={self.chat.task.config.name} has no history", slug="no-effect", where=name
            )
        if name == "/reset":
            self.chat.reset()
            self.turns_cut = 0
            self.note("the conversation begins anew")
        elif name == "/undo":
            self.note(
                "the last message and its answer are taken back" if self.chat.undo() else "there is no message yet"
            )
        elif name == "/system":
            self.chat.set_system(rest or None)
            self.note("the system says that from now on" if rest else "the system says nothing from now on")
        elif name == "/save":
            self._save(rest)
        elif name == "/help":
            self.note("\n".join(f"{one:<10}{words}" for one, words in _COMMANDS.items()))
        else:
            raise ConfigError(
                f"there is no command {name!r}; there are: {', '.join(_COMMANDS)}",
                slug="unknown-command",
                where=name,
                help=did_you_mean(name, _COMMANDS) or f"a message that begins with / is written /{name}",
            )

    def answer(self, message: str) -> None:
        """Print the answer as it comes, then where it was looked up and what it did not see."""
        if self.is_terminal:
            self._label()
        prediction, is_whole = self.chat.answer(message.strip(), self._say)
        print(flush=True)
        if not is_whole:
            if not self.is_terminal:
                raise KeyboardInterrupt
            self.note("stopped")
        self._notes(prediction)

    def note(self, text: str) -> None:
        """Say something that is no answer."""
        if self.is_terminal:
            from rich.console import Console
            from rich.text import Text

            Console(stderr=True).print(Text(printable(text, keep="\n"), style="dim"))
        else:
            print(printable(text, keep="\n"), file=sys.stderr)

    def _save(self, rest: str) -> None:
        if not rest:
            raise ConfigError("/save needs the name of a file: /save FILE", slug="bad-arguments", where="/save")
        count = len([turn for turn in self.chat.turns if turn["role"] != "system"])
        if not count:
            raise ConfigError(
                "there is nothing to save: no message was answered yet", slug="nothing-to-save", where="/save"
            )
        self.chat.save(Path(rest))
        self.note(f"{plural(count, 'turn')} added to {rest}")

    def _notes(self, prediction: Prediction) -> None:
        cut = int(prediction.get("turns_cut", 0))
        if cut > self.turns_cut:
            self.note(
                f"the oldest {plural(cut, 'turn')} of the conversation have no room any more: the answer is without them"
            )
        self.turns_cut = cut
        if "sources" in prediction:
            places = [f"{one['file']}:{one['lines'][0]}-{one['lines'][1]}" for one in prediction["sources"]]
            self.note(f"sources: {', '.join(places)}" if places else "sources: no passage matches the message")

    def _say(self, piece: str) -> None:
        print(printable(piece, keep="\n\t"), end="", flush=True)

    def _label(self) -> None:
        from rich.console import Console

        Console().print("model> ", style="bold cyan", end="")

    def _guarded(self, act: Callable[..., None], *words: str) -> None:
        """In a terminal a failure or a Ctrl-C is told and the conversation goes on."""
        try:
            act(*words)
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            self.note("stopped")
        except ChainftError as error:
            if not self.is_terminal:
                raise
            self.note(error.render())

    def _lines(self) -> Iterator[str]:
        if not self.is_terminal:
            from chainft.cli.predict import decoded

            for line in decoded(sys.stdin.buffer, "standard input"):
                yield line.rstrip("\r\n")
            return
        import readline  # noqa: F401 - input() edits lines by it.

        while True:
            try:
                yield input("you> ")
            except KeyboardInterrupt:
                print(file=sys.stderr)
                self.note("Ctrl-D or /quit leaves")
            except EOFError:
                print(file=sys.stderr)
                return
