"""`chainft check data`: findings with places, exit code 3 for errors, JSON for programs, light without a tokenizer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chainft.cli.main import main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Writes CSV files of (text, label) rows into the current folder; the words that name them."""
    monkeypatch.chdir(tmp_path)

    def write(**splits: list[tuple[str, str]]) -> list[str]:
        for split, rows in splits.items():
            lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
            Path(f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return ["check", "data", "task=classify", *(f"data.{split}={split}.csv" for split in splits)]

    return write


TRAIN = [(f"{word} {number}", word) for number in range(10) for word in ("good", "bad")]
TEST = [("great", "good"), ("awful", "bad")]


def test_sound_data_pass(data: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*data(train=TRAIN, validation=TEST), "--no-tokenizer"]) == 0
    out = capsys.readouterr().out
    assert "nothing to complain about" in out
    assert "train" in out and "20" in out


def test_a_label_that_train_lacks_is_an_error_told_beside_the_rest(
    data: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """fault 10"""
    words = data(train=TRAIN, validation=TEST, test=[("good 1", "good"), ("odd", "goood")])
    assert main([*words, "--no-tokenizer"]) == 3
    out = capsys.readouterr().out
    assert "error[data/unseen-label]" in out
    assert "test.csv:3" in out
    assert "did you mean 'good'" in out
    assert "warning[data/leak]" in out
    assert out.index("unseen-label") < out.index("leak")
    assert "no-labels" not in out
    assert "1 error, 1 warning" in out


def test_malformed_rows_end_it_with_their_places(
    data: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """fault 9"""
    words = data(train=[*TRAIN, ("a,b", "good"), ("c,d", "good")], validation=TEST)
    assert main([*words, "--no-tokenizer"]) == 3
    err = capsys.readouterr().err
    assert "train.csv:22" in err and "train.csv:23" in err
    assert "Traceback" not in err


def test_missing_files_are_told_together(data: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    words = data(train=TRAIN)
    assert main([*words, "data.validation=trian.csv", "data.test=nothing.csv", "--no-tokenizer"]) == 3
    err = capsys.readouterr().err
    assert "did you mean 'train.csv'" in err
    assert "nothing.csv" in err


def test_json_holds_the_card_and_the_findings(
    data: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*data(train=TRAIN, validation=TEST, test=TRAIN[:1]), "--json", "--no-tokenizer"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["splits"]["train"]["examples"] == 20
    assert card["splits"]["train"]["labels"] == {"bad": 10, "good": 10}
    assert {one["slug"] for one in card["findings"]} >= {"leak"}


def test_lengths_are_told_with_the_models_tokenizer(
    data: Callable[..., list[str]], tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """fault 13"""
    long = [("good " * 100, "good")]
    words = data(train=[*TRAIN, *long], validation=TEST)
    assert main([*words, f"model={tiny_encoder}", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["splits"]["train"]["max_length"] == 64
    assert sum(card["splits"]["train"]["lengths"]["counts"]) >= 21
    (over,) = [one for one in card["findings"] if one["slug"] == "over-long"]
    assert over["where"] == "train.csv:22"


def test_without_the_model_everything_else_is_checked(
    data: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([*data(train=TRAIN, validation=TEST), f"model={tmp_path / 'empty'}"]) == 0
    assert "info[data/lengths-unknown]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"), [([], "nothing"), (["dta"], "did you mean 'data'"), (["task=ner"], "data task")]
)
def test_a_wrong_subject_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *words]) == 2
    assert said in capsys.readouterr().err


def test_help_needs_no_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    assert "--no-tokenizer" in capsys.readouterr().out


def test_without_a_tokenizer_torch_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from chainft.cli.main import main; "
        "code = main(['check', 'data', 'task=ner', '--no-tokenizer']); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'transformers', 'datasets', 'pyarrow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
