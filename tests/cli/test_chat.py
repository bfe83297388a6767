"""`chainft chat`: the real command through a pipe, and what it does in a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chainft.cli.chat import _Desk, run
from chainft.cli.completion import candidates
from chainft.errors import ConfigError, DataError
from chainft.infer.chat import Chat, Choices, open_chat
from chainft.infer.predict import predict
from chainft.train.session import run_training

Chainft = Callable[..., "subprocess.CompletedProcess[str]"]
TALKS = [
    ["anna", "paris", "ben", "oslo"],
    ["ben", "oslo", "anna", "paris"],
    ["emil", "rome", "anna", "paris"],
    ["ben", "oslo", "emil", "rome"],
]


@pytest.fixture(scope="module")
def trained(tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory, offline: None) -> Path:
    """A run that learned a city for each name."""
    from chainft.config.compose import compose

    folder = tmp_path_factory.mktemp("dialogue")
    rows = []
    for talk in TALKS * 3:
        turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(talk)]
        rows.append(json.dumps({"messages": turns}) + "\n")
    (folder / "talks.jsonl").write_text("".join(rows), encoding="utf-8")
    words = ["task=dialogue", f"model={tiny_decoder}", "data=jsonl", "model.max_length=96", "task.max_new_tokens=6"]
    words += [f"data.{split}={folder / 'talks.jsonl'}" for split in ("train", "validation", "test")]
    words += ["optimizer.lr=0.01", "train.batch_size=4", "train.num_train_epochs=25", "evaluation.every=75"]
    run_training(compose([*words, f"run={folder / 'run'}", "report.enabled=false"]))
    return folder / "run"


def test_training_learns_the_answers_and_compares_them_with_baselines(trained: Path) -> None:
    results = json.loads((trained / "all_results.json").read_text(encoding="utf-8"))
    before, after = (results["test"][when]["values"] for when in ("before", "after"))
    assert after["perplexity"] < 1.5 < before["perplexity"]
    assert after["chrf"] > 0.9
    assert {"bleu", "distinct_1", "distinct_2", "length_ratio"} <= after.keys()
    assert results["baselines"].keys() == {"most_frequent", "retrieval"}


def test_the_saved_folder_answers_in_transformers_by_its_own_template(trained: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    model = AutoModelForCausalLM.from_pretrained(trained / "model")
    messages = [{"role": "user", "content": "ben"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        said = model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
    (ours,) = predict(trained, ["ben"], form="lines", source="in")
    assert tokenizer.decode(said, skip_special_tokens=True).strip() == ours["response"] == "oslo"


def test_a_model_answers_in_8_bits_too(chainft: Chainft, trained: Path) -> None:
    done = chainft("chat", trained, "--precision", "int8", stdin="anna\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "paris\n"
    assert "linear layers" in done.stderr


def test_a_pipe_gets_one_answer_a_message_and_keeps_the_history(
    chainft: Chainft, trained: Path, tmp_path: Path
) -> None:
    lines = ["anna", "ben", "/undo", "/save talk.jsonl", "/reset", "/system the old city", "emil", "/save talk.jsonl"]
    done = chainft("chat", trained, stdin="\n".join([*lines, "/quit", "ben"]) + "\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert done.stdout.splitlines()[:2] == ["paris", "oslo"]
    saved = [json.loads(line)["messages"] for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert saved[0] == [{"role": "user", "content": "anna"}, {"role": "assistant", "content": "paris"}]
    assert [turn["role"] for turn in saved[1]] == ["system", "user", "assistant"]


def test_what_is_streamed_is_what_predict_says(trained: Path) -> None:
    chat = open_chat(trained, Choices(temperature=2.0, seed=5))
    pieces: list[str] = []
    prediction, is_whole = chat.answer("anna", pieces.append)
    assert is_whole
    assert "".join(pieces) == prediction["response"]
    again = open_chat(trained, Choices(temperature=2.0, seed=5))
    assert again.answer("anna", lambda _: None)[0] == prediction
    others = {
        open_chat(trained, Choices(temperature=9.0, seed=seed)).answer("anna", lambda _: None)[0]["response"]
        for seed in range(4)
    }
    assert len(others) > 1


def test_sources_are_named_and_a_message_that_matches_nothing_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.md").write_text("x\n\nemil\n")
    chat = open_chat(trained, Choices(documents=str(tmp_path)))
    desk = _Desk(chat, is_terminal=False)
    desk.answer("emil")
    desk.answer("quito")
    assert capsys.readouterr().err == "sources: a.md:1-3\nsources: no passage matches the message\n"
    assert chat.turns[0] == {"role": "user", "content": "emil"}, "passages are no part of the history"


class _Stopped(Chat):
    """Its model is stopped by Ctrl-C after the first token."""

    def answer(self, message, say):  # type: ignore[no-untyped-def]
        heard_before = iter([False])

        def heard(piece: str) -> None:
            say(piece)
            if not next(heard_before, True):
                raise KeyboardInterrupt

        return super().answer(message, heard)


def test_ctrl_c_stops_an_answer_and_what_was_said_stays(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = open_chat(trained, Choices())
    desk = _Desk(_Stopped(whole.task, whole.model), is_terminal=True)
    desk.answer("anna")
    shown = capsys.readouterr()
    assert "stopped" in shown.err
    assert desk.chat.turns[-1]["content"] in shown.out
    with pytest.raises(KeyboardInterrupt):
        _Desk(_Stopped(whole.task, whole.model), is_terminal=False).answer("anna")


def test_the_oldest_turns_fall_out_of_a_long_conversation_and_that_is_told_once(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = _Desk(open_chat(trained, Choices(max_new_tokens=4)), is_terminal=False)
    for _ in range(5):
        desk.answer("anna " * 5)
    notes = capsys.readouterr().err.splitlines()
    assert notes
    assert all("no room any more" in note for note in notes)
    assert len(set(notes)) == len(notes)
    with pytest.raises(DataError, match="more than 96"):
        desk.answer("anna " * 100)
    assert len(desk.chat.turns) == 10, "a message without an answer is no turn"


@pytest.mark.parametrize(
    ("line", "why"), [("/rest", "there is no command"), ("/save", "needs the name"), ("/save x", "nothing to save")]
)
def test_a_wrong_command_ends_a_pipe_and_is_told_in_a_terminal(
    trained: Path, line: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = _Desk(open_chat(trained, Choices()), is_terminal=False)
    name, _, rest = line.partition(" ")
    with pytest.raises(ConfigError, match=why):
        desk._guarded(desk.command, name, rest)
    desk.is_terminal = True
    desk._guarded(desk.command, name, rest)
    assert why in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["--seed", "3"], "--seed 3"),
        (["--temperature", "warm"], "--temperature warm"),
        (["--temperature", "nan"], "--temperature nan"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["one more"], "one more"),
    ],
)
def test_flags_without_sense_are_refused(trained: Path, words: list[str], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run([str(trained), *words])
    assert caught.value.problems[0].where == where


def test_help_and_completion_know_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("--documents", "--temperature", "/undo", "/save FILE"))
    assert "--documents" in candidates("chainft chat runs/x --d")
    assert candidates("chainft cha") == ["chat"]


def test_a_run_that_writes_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chainft.infer import chat
    from chainft.infer.trained import Trained
    from chainft.tasks.classify import Classify, ClassifyConfig

    monkeypatch.setattr(chat, "load_run", lambda run: Trained(run, Classify(ClassifyConfig()), None))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="writes no answers"):
        open_chat(tmp_path, Choices())


def test_importing_the_command_loads_no_torch() -> None:
    code = "import sys, chainft.cli.chat; print('torch' in sys.modules or 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
