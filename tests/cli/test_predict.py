"""`chainft predict` before any model is loaded: what it reads and where it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainft.cli.predict import _parser, run
from chainft.errors import ConfigError
from chainft.run_folder import STATE_FILE


def test_the_texts_are_never_overwritten_by_their_answers(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_text("{}", encoding="utf-8")
    texts = tmp_path / "texts.txt"
    texts.write_text("Ada lives in London.\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is the file of the texts"):
        run([str(tmp_path), "--file", str(texts), "--output", str(tmp_path / "." / "texts.txt")])
    assert texts.read_text(encoding="utf-8") == "Ada lives in London.\n"


@pytest.mark.parametrize("words", [["--batch-size", "8", "Ada", "lives"], ["Ada", "--batch-size=8", "lives"]])
def test_flags_may_stand_before_the_text_and_in_it(tmp_path: Path, words: list[str]) -> None:
    options = _parser().parse([str(tmp_path), *words])
    assert (options.words, options.batch_size) == (["Ada", "lives"], 8)


def test_a_text_may_begin_with_a_dash_after_two_of_them(tmp_path: Path) -> None:
    options = _parser().parse(["--precision", "int8", str(tmp_path), "--", "-5 degrees"])
    assert (options.words, options.precision) == (["-5 degrees"], "int8")
