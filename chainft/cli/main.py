"""The command `chainft`: finds the verb, runs it, and prints failures the way people can act on.

Light: a verb's module is imported when it is used, and no verb imports torch before the config is checked.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chainft import __version__
from chainft.errors import ChainftError, ConfigError, StorageError, did_you_mean

BROKEN_PIPE = 141
"""What a shell reports for a program ended by SIGPIPE (128 + 13)."""


@dataclass(frozen=True)
class Verb:
    """A command of chainft: a module with `run(arguments) -> exit code`."""

    module: str
    summary: str


VERBS: Mapping[str, Verb] = {
    "train": Verb("chainft.cli.train", "fine-tune a model; -m sweeps over values"),
    "evaluate": Verb("chainft.cli.evaluate", "score a trained model on data"),
    "predict": Verb("chainft.cli.predict", "label texts with a trained model"),
    "chat": Verb("chainft.cli.chat", "talk with a trained model: chainft chat RUN_FOLDER"),
    "join": Verb("chainft.cli.join", "serve runs with one frozen trunk as one model: chainft join NAME=RUN ..."),
    "augment": Verb("chainft.cli.augment", "make labelled training data from what there is: chainft augment task=ner"),
    "check": Verb("chainft.cli.check", "look for mistakes before training: chainft check data|chain ..."),
    "plan": Verb("chainft.cli.plan", "foresee memory and work of each stage, without weights: chainft plan task=ner"),
    "bench": Verb(
        "chainft.cli.bench", "compare with the Hugging Face Trainer on this machine: chainft bench task=ner"
    ),
    "cache": Verb("chainft.cli.cache", "list or remove what is kept for later runs: chainft cache ls|clear"),
    "config": Verb("chainft.cli.config", "explain settings: chainft config show [GROUP|KEY]"),
    "new": Verb("chainft.cli.new", "write a package with a plug-in of your own: chainft new task NAME"),
    "doctor": Verb("chainft.cli.doctor", "show versions, devices, memory, weights, and what is missing"),
    "completion": Verb("chainft.cli.completion", "print the completion script for bash, zsh or fish"),
}

HELP = """\
chainft {version}: fine-tune transformers from the command line

usage: chainft COMMAND [key=value ...] [--flags]

commands:
{verbs}

start here (small model and data included, no network needed):
  chainft train task=ner
  chainft train task=ner model=bert-base-cased data.train=train.conll data.test=test.conll
  chainft train -m task=ner optimizer.lr=1e-4,3e-4 seed=1,2
  chainft predict runs/FOLDER "Ada Lovelace lived in London."

flags of all commands:
  -h, --help             help; also after a command
  --version              version
  --errors text|json     how failures are printed (CHAINFT_DEBUG=1 adds the traceback)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code. Failures of the user's are printed to stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = False
    try:
        words, as_json = _errors_flag(words)
        code = run(words)
        sys.stdout.flush()
        return code
    except ChainftError as error:
        _report(error, as_json=as_json)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _forget_interrupt()
        return 130
    except BrokenPipeError:
        _discard_output()  # The reader (`| head`) is gone.
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _discard_output()
        full = StorageError(
            f"cannot write {error.filename or 'the output'}: {error.strerror}",
            slug="disk-full",
            help="free some space, or write to another disk",
        )
        _report(full, as_json=as_json)
        return full.exit_code


def _forget_interrupt() -> None:
    """Let `python -m chainft` exit with the code that `main` returns.

    A Ctrl-C that ends code in a string, as imports run it for named tuples and dataclasses, is noted by CPython
    (`unhandled_keyboard_interrupt` in Python/pythonrun.c), which then ends `python -m` by SIGINT even though the
    exception was caught. Running any code in a string takes the note back.
    """
    eval("None")


def _discard_output() -> None:
    """Python flushes stdout once more at exit; that must not fail either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(words: list[str]) -> int:
    """Run the verb that the words name. Raises ConfigError for one that does not exist."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"chainft {__version__}")
        return 0
    verb = VERBS.get(words[0])
    if verb is None:
        raise _unknown(words)
    return int(importlib.import_module(verb.module).run(words[1:]))


def help_text() -> str:
    verbs = "\n".join(f"  {name:<12}{verb.summary}" for name, verb in VERBS.items())
    return HELP.format(version=__version__, verbs=verbs)


def _errors_flag(words: list[str]) -> tuple[list[str], bool]:
    """Take `--errors text|json` out of the words, wherever it stands before a `--`."""
    end = words.index("--") if "--" in words else len(words)
    head, tail = words[:end], words[end:]
    forms = []
    rest = []
    remaining = iter(head)
    for word in remaining:
        if word == "--errors" or word.startswith("--errors="):
            forms.append(word.partition("=")[2] or next(remaining, ""))
        else:
            rest.append(word)
    for form in forms:
        if form not in ("text", "json"):
            raise ConfigError(
                f"--errors {form or '(nothing)'}: expected text or json", slug="bad-flag", where="--errors"
            )
    return rest + tail, bool(forms) and forms[-1] == "json"


def _unknown(words: list[str]) -> ConfigError:
    word = words[0]
    if word.startswith("-"):
        return ConfigError(
            f"unknown flag {word!r}",
            slug="unknown-flag",
            where=word,
            help=did_you_mean(word, ["--help", "--version", "--errors"]) or "flags of a command come after it",
        )
    if "=" in word:
        help: str | None = f"did you mean 'chainft train {' '.join(words)}'?"
    else:
        help = did_you_mean(word, [*VERBS, *_OTHER_NAMES])
        for other, verb in _OTHER_NAMES.items():
            help = f"did you mean {verb!r}?" if help == f"did you mean {other!r}?" else help
    return ConfigError(
        f"there is no command {word!r}; there are: {', '.join(VERBS)}", slug="unknown-command", where=word, help=help
    )


_OTHER_NAMES = {"eval": "evaluate", "test": "evaluate", "fit": "train", "finetune": "train", "infer": "predict",
                "validate": "check", "show": "config", "env": "doctor", "info": "doctor",
                "benchmark": "bench", "compare": "bench", "init": "new", "create": "new",
                "talk": "chat", "repl": "chat"}  # fmt: skip
"""What other tools call our commands."""


def _report(error: ChainftError, *, as_json: bool) -> None:
    if os.environ.get("CHAINFT_DEBUG") == "1":
        traceback.print_exception(error)
    print(error.to_json() if as_json else error.render(), file=sys.stderr)
