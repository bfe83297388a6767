"""Code: rows of two forms, nothing is run without leave, answers are judged by their tests."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from chainft.config.parse import parse
from chainft.data.example import Example, Origin
from chainft.data.load import load_splits
from chainft.data.sources.jsonl import JsonlConfig
from chainft.errors import ConfigError, DataError
from chainft.metrics.base import check_metric
from chainft.registry import find
from chainft.tasks import _code_tests
from chainft.tasks._sandbox import Program, Result, Sandbox
from chainft.tasks.code import Code, CodeConfig
from chainft.train.baselines import score_baselines

Chainft = Callable[..., Any]
MBPP = {
    "prompt": "Write f(x) that returns x + 1.",
    "solution": "def f(x):\n    return x + 1",
    "tests": ["assert f(1) == 2"],
}
HUMANEVAL = {
    "prompt": 'def f(x):\n    """Return x + 1."""\n',
    "solution": "    return x + 1\n",
    "tests": "METADATA = {}\ndef check(candidate):\n    assert candidate(1) == 2\n",
    "entry_point": "f",
}
WORDS = [
    "old",
    "new",
    "company",
    "city",
    "person",
    "house",
    "river",
    "report",
    "yesterday",
    "today",
    "good",
    "bad",
    "fine",
    "great",
    "awful",
    "near",
]
RUN: dict[str, Any] = {"execute": True, "timeout_s": 2.0}


def example(values: Any, line: int = 1, **more: Any) -> Example:
    return Example({**values, **more}, Origin("data.jsonl", line))


def make(folder: Path | None = None, **settings: Any) -> Code:
    task = Code(parse(CodeConfig, {"name": "code", "max_new_tokens": 8, **settings}))
    if folder is not None:
        task.prepare(AutoTokenizer.from_pretrained(folder), max_length=64)
    return task


def decoded(task: Code, one: Example, *texts: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The prediction for answers that a model might have written."""
    monkeypatch.setattr(task, "to_text", lambda ids: texts[int(ids[0])])
    raw = [np.array([number]) for number in range(len(texts))]
    return task.decode(one, [{"tokens_cut": np.array([0])}], [raw])


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Sandbox, program: Program) -> Result:
        raise AssertionError("code was run")

    monkeypatch.setattr(Sandbox, "run", refuse)


def test_the_plugin_is_found() -> None:
    assert find("task", "code", key="task.name") is Code


@pytest.mark.parametrize(
    "row",
    [
        {
            "task_id": 1,
            "text": MBPP["prompt"],
            "code": MBPP["solution"],
            "test_list": MBPP["tests"],
            "test_setup_code": "",
        },
        {
            "prompt": HUMANEVAL["prompt"],
            "canonical_solution": HUMANEVAL["solution"],
            "test": HUMANEVAL["tests"],
            "entry_point": "f",
        },
    ],
    ids=["MBPP", "HumanEval"],
)
def test_both_forms_are_read_and_their_solutions_pass(tmp_path: Path, row: dict[str, Any]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    task = make(**RUN)
    splits = load_splits(JsonlConfig(name="jsonl", train=str(file), validation_fraction=0), task)
    (one,) = splits.examples["train"]
    assert [found.slug for found in task.contract(splits.examples) if found.slug != "weak-sandbox"] == []
    assert _code_tests.judge(one, [one.values["solution"]], Sandbox())[0].outcome == "passed"


@pytest.mark.parametrize(
    ("more", "slug"),
    [
        ({"language": "java"}, "unknown-language"),
        ({"tests": ["assert f(1 == 2"]}, "broken-test"),
        ({"tests": [3]}, "not-text"),
        ({"setup": "import ("}, "broken-test"),
        ({"tests": HUMANEVAL["tests"]}, "no-entry-point"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused_at_their_place(more: dict[str, Any], slug: str) -> None:
    (problem,) = make().validate(example(MBPP, 7, **more))
    assert (problem.slug, problem.where) == (slug, "data.jsonl:7")
    assert list(make().validate(example(MBPP, language="Python"))) == []


@pytest.mark.usefixtures("nothing_runs")
def test_nothing_is_run_unless_switched_on(
    tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task, one = make(tiny_decoder), example(MBPP)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert "outcomes" not in decoded(task, one, "x = 1", monkeypatch=monkeypatch)
    assert caplog.text.count("task.execute=true") == 1
    assert (task.main_metric, [one.slug for one in task.contract({"train": [one]})]) == ("chrf", ["tests-not-run"])
    scores = score_baselines(task, [one], [one])
    assert (scores["nearest"]["exact_match"], scores["empty"]["syntax_error_rate"]) == (1.0, 0.0)


def test_answers_are_run_against_the_tests(tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, one = make(tiny_decoder, **RUN, num_samples=3, do_sample=True, k=[1, 2]), example(HUMANEVAL)
    answers = ("    return 0", "    return x + 1\n\nprint(f(1))", "    retrun")
    found = decoded(task, one, *answers, monkeypatch=monkeypatch)
    assert found["outcomes"] == ["failed", "passed", "error"]
    assert found["message"].startswith("AssertionError")
    assert found["candidates"][1] == "    return x + 1"
    assert found["program"] == HUMANEVAL["prompt"] + "    return 0"
    metrics = task.metrics()
    for metric in metrics:
        metric.update(task.gold(one), task.predicted(found))
    values = {name: value for metric in metrics for name, value in metric.compute().values.items()}
    assert (values["pass_at_1"], values["pass_at_2"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert task.main_metric == "pass_at_1"
    check_metric("pass_at_2", task)
    mistake = task.mistake(one, found)
    assert mistake is not None
    assert "# failed: AssertionError" in mistake.predicted


def test_baselines_are_run_too() -> None:
    task, one = make(**RUN), example(MBPP)
    scores = score_baselines(task, [one], [one])
    assert (scores["nearest"]["pass_at_1"], scores["empty"]["pass_at_1"]) == (1.0, 0.0)


def test_solutions_that_fail_and_rows_without_tests_are_reported() -> None:
    bad = example(MBPP, 2, solution="def f(x):\n    return x")
    untested = Example({"prompt": "a", "solution": "b = 1"}, Origin("data.jsonl", 3))
    found = {one.slug: one for one in make(**RUN).contract({"train": [example(MBPP), bad, untested]})}
    assert (found["failing-solution"].count, found["failing-solution"].where) == (1, "data.jsonl:2")
    assert "failed" in found["failing-solution"].message
    assert found["no-tests"].count == 1


def test_setup_runs_before_the_tests_and_solutions_may_define_names_of_builtins() -> None:
    one = example(MBPP, setup="two = 2", tests=["assert f(1) == two"])
    assert _code_tests.judge(one, [MBPP["solution"]], Sandbox())[0].outcome == "passed"
    sum_ = example(
        {
            "prompt": "Write sum(a, b).",
            "solution": "def sum(a, b):\n    return a + b",
            "tests": ["assert sum(1, 2) == 3"],
        }
    )
    assert _code_tests.judge(sum_, [sum_.values["solution"]], Sandbox())[0].outcome == "passed"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"num_samples": 2}, "task.num_samples"),
        ({"k": [1]}, "task.k"),
        ({"timeout_s": 1.0}, "task.timeout_s"),
        ({"memory_bytes": 1 << 30}, "task.memory_bytes"),
        ({"metrics": ["pass_at_k"]}, "task.metrics"),
        ({"execute": True, "k": [2]}, "task.k"),
        ({"execute": True, "num_samples": 2}, "task.num_samples"),
        ({"execute": True, "generate_in_evaluation": False}, "task.execute"),
        ({"execute": True, "memory_bytes": 1000}, "memory_bytes"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**settings)
    assert [one.key for one in caught.value.problems] == [key]


def test_blanks_at_the_beginning_of_an_answer_are_kept(tiny_decoder: Path) -> None:
    task = make(tiny_decoder)
    ids = task.tokenizer("anna", add_special_tokens=False)["input_ids"]
    task.tokenizer.decode = lambda *rest, **more: "    anna  \n"  # type: ignore[method-assign, assignment]
    assert task.to_text(np.array(ids)) == "    anna"


def test_an_input_is_a_line_or_an_object_with_tests() -> None:
    task = make()
    assert task.read_input("do it", where="<stdin>:1").values == {"prompt": "do it"}
    row = {"text": "do it", "test_list": ["assert True"]}
    assert task.read_input(row, where="in.jsonl:1").values == {"prompt": "do it", "tests": ["assert True"]}
    with pytest.raises(DataError):
        task.read_input({"prompt": 1}, where="in.jsonl:1")


def test_solutions_of_the_starter_data_pass() -> None:
    task = make(**RUN)
    config = JsonlConfig(name="jsonl", **{one: f"pkg://chainft.starter/code/{one}.jsonl" for one in ("train", "test")})  # type: ignore[arg-type]
    examples = load_splits(config, task).examples["train"][:12]
    assert [one.slug for one in task.contract({"train": examples}) if one.slug != "weak-sandbox"] == []


@pytest.mark.slow
def test_a_run_trains_evaluates_and_predicts(chainft: Chainft, tiny_decoder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"the {word}", "code": "a = 1", "test_list": ["assert a == 1"]} for word in WORDS]
    words = ["task=code", f"model={tiny_decoder}", "train.max_steps=2", "task.execute=true", "data=jsonl"]
    for split, chosen in (("train", rows[:12]), ("validation", rows[12:14]), ("test", rows[14:16])):
        file = tmp_path / f"{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
        words.append(f"data.{split}={file}")
    done = chainft("train", *words, "task.max_new_tokens=4", f"run={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert results["test"]["after"]["values"]["pass_at_1"] == 0.0
    assert set(results["baselines"]) == {"empty", "nearest"}
    assert "Outcomes of tests" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    row = json.dumps({"prompt": "Write f(x).", "tests": ["assert f(1) == 1"]})
    said = chainft("predict", tmp_path / "run", "--format", "jsonl", stdin=row + "\n")
    assert json.loads(said.stdout)["outcomes"] == ["error"], said.stderr
