"""`chainft bench` on tiny data: both tools do the same work, and what was measured is told. No time is judged."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from chainft.bench import turns
from chainft.bench.export import Request, export
from chainft.bench.trainer_baseline import Settings, _model
from chainft.bench.turns import Bench, Turn, run_bench
from chainft.cli.bench import run
from chainft.config.compose import compose
from chainft.errors import DataError, DistributedError

SETTINGS = ["train.batch_size=8", "optimizer.lr=1e-3", "seed=3", "train.max_steps=50", "evaluation.patience=2"]
FROZEN = ["chain.split=2", "chain.stages.stage0.frozen=true"]


@pytest.fixture
def intents(tmp_path: Path) -> list[str]:
    """Overrides that name a small CSV file of texts with labels under other names."""
    rows = [
        f"{verb} {place},{verb}" for verb in ("visited", "left", "sold") for place in ("oslo", "rome", "lima", "quito")
    ]
    (tmp_path / "all.csv").write_text("\n".join(["words,what", *rows * 3]) + "\n", encoding="utf-8")
    cuts = ["data.validation_fraction=0.2", "data.test_fraction=0.2", "data.max_train_samples=16"]
    return ["data=csv", f"data.train={tmp_path}/all.csv", "data.columns={text: words, label: what}", *cuts]


@pytest.fixture(scope="module")
def compared(tiny_encoder: Path, ner_files: list[str]) -> dict[str, Any]:
    """What `--json` tells of a chain with a frozen stage."""
    words = ["task=ner", f"model={tiny_encoder}", *ner_files, *SETTINGS, *FROZEN]
    with redirect_stdout(io.StringIO()) as out:
        assert run([*words, "--steps", "7", "--rounds", "1", "--json"]) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def test_json_has_ratios_and_a_share_of_the_peak(compared: dict[str, Any]) -> None:
    assert set(compared["ratios"]) == {"step_s", "tokens_per_s", "whole_s", "memory_bytes"}
    assert all(
        ratio["min"] > 0 and ratio["min"] <= ratio["mean"] <= ratio["max"] for ratio in compared["ratios"].values()
    )
    assert compared["peak"]["share"]["mean"] > 0


def test_both_tools_take_equally_many_steps_on_the_same_examples(compared: dict[str, Any]) -> None:
    (theirs,), (ours,) = compared["turns"]["Trainer"], compared["turns"]["chainft"]
    assert theirs["steps"] == ours["steps"] == 7
    assert theirs["seed"] == ours["seed"] == 3
    assert theirs["examples"] == ours["examples"] == {"train": 40, "validation": 10, "test": 10}
    assert theirs["tokens"] == ours["tokens"]
    assert (compared["scored"], compared["metric"]) == ("test", "entity_f1")


def test_work_counts_frozen_blocks_once(compared: dict[str, Any]) -> None:
    """A block of the tiny encoder has 4 matrices of 32 x 32 and two of 32 x 64."""
    matrices = 4 * 32 * 32 + 2 * 32 * 64
    peak = compared["peak"]
    assert (peak["trained_parameters"], peak["frozen_parameters"]) == (matrices, matrices)
    assert peak["flops_per_token"] == (6 if compared["prefix_cache"] else 8) * matrices


def test_table_of_classify_names_both_tools(
    tiny_encoder: Path, intents: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["task=classify", f"model={tiny_encoder}", *intents, "train.batch_size=8"]
    assert run([*words, "--steps", "2", "--rounds", "1", "--best"]) == 0
    shown = capsys.readouterr().out
    for word in (
        "Trainer",
        "chainft",
        "test f1_macro",
        "better by",
        "matrix-multiply peak",
        "6 operations",
        "fused AdamW",
    ):
        assert word in shown
    assert "Not alike" not in shown


def _exported(folder: Path, *words: str) -> dict[str, Any]:
    export(Request(words, None, "train", str(folder), steps=20, best=False))
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return found


def test_baseline_has_the_settings_of_the_config(tiny_encoder: Path, ner_files: list[str], tmp_path: Path) -> None:
    words = ["scheduler=cosine", "scheduler.warmup_fraction=0.25", "optimizer.options.betas=[0.8,0.9]", "seed=5"]
    words += [
        "train.max_grad_norm=null",
        "evaluation.batch_size=4",
        "optimizer.weight_decay=0.1",
        "model.max_length=32",
    ]
    found = _exported(tmp_path, "task=ner", f"model={tiny_encoder}", *ner_files, *words, "optimizer.lr=2e-4")[
        "settings"
    ]
    assert found["labels"] == ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    assert (found["lr_scheduler_type"], found["warmup_steps"], found["max_steps"]) == ("cosine", 5, 20)
    assert (found["adam_betas"], found["max_grad_norm"], found["weight_decay"]) == ([0.8, 0.9], 0.0, 0.1)
    assert (found["learning_rate"], found["eval_batch_size"], found["max_length"]) == (2e-4, 4, 32)


def test_examples_have_the_columns_cuts_and_limits_of_the_config(
    tiny_encoder: Path, intents: list[str], tmp_path: Path
) -> None:
    found = _exported(tmp_path, "task=classify", f"model={tiny_encoder}", *intents)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found["examples"]["train"] == len(rows) == 16
    assert all(row["text"].split()[0] == row["label"] for row in rows)


def test_baseline_freezes_the_parameters_that_chainft_freezes(
    tiny_encoder: Path, ner_files: list[str], tmp_path: Path
) -> None:
    found = _exported(tmp_path, "task=ner", f"model={tiny_encoder}", *ner_files, *FROZEN)["settings"]
    model = _model(Settings(**found))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == found["frozen"]
    assert {name.split(".")[1] for name in frozen} == {"embeddings", "encoder"}
    assert not any(".layer.1." in name for name in frozen)


def test_tools_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A B B A, with a seed for each round."""
    order = []

    def turn(tool: str, seed: int) -> Turn:
        order.append((tool, seed))
        return Turn(seed, 3, 1.0, 10.0, 5.0, 9.0, 100, None, {"train": 4}, {"train": 9}, "cpu")

    settings = {"metric": "entity_f1", "batch_size": 2, "data": "", "seed": 0}
    facts = {"settings": settings, "examples": {"train": 4}, "blocks": {"unknown": "no blocks"}}
    monkeypatch.setattr(turns, "_export", lambda bench, folder: facts)
    monkeypatch.setattr(turns, "_trainer", lambda settings, folder, seed: turn("Trainer", seed))
    plan = {"prefix_cache": None}
    monkeypatch.setattr(turns, "_chainft", lambda bench, facts, folder, seed: (turn("chainft", seed), plan))
    bench = Bench(compose(["task=ner", "seed=7"]).config, (), steps=3, rounds=2)
    assert run_bench(bench, lambda text: None).ratios["step_s"].mean == 1.0
    assert order == [("Trainer", 7), ("chainft", 7), ("chainft", 8), ("Trainer", 8)]


def test_error_of_a_process_is_told_as_its_own() -> None:
    told = DataError("row 3 has no label", slug="no-label", where="x.csv:4").to_json()
    error = turns._failure("chainft train", 3, ["warning", told])
    assert isinstance(error, DataError)
    assert (error.problems[0].slug, error.problems[0].where) == ("no-label", "x.csv:4")
    other = turns._failure("the Trainer baseline", 1, ["Traceback", "ValueError: no pad token"])
    assert isinstance(other, DistributedError) and "no pad token" in str(other)
