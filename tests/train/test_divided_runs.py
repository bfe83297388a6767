"""Pipelines, shards and copies give what one process gives, in whole runs."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from chainft.config.compose import compose
from chainft.config.saved import compose_resumed
from chainft.errors import Stopped
from chainft.run_folder import RunFolder
from chainft.train.launch import launch
from tests.train.same_runs import SGD, Train, assert_same_runs


@pytest.fixture
def deep_encoder(still_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like the still encoder, of four blocks."""
    folder = tmp_path_factory.mktemp("deep") / "encoder"
    shutil.copytree(still_encoder, folder)
    config = BertConfig.from_pretrained(folder)
    config.num_hidden_layers = 4
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


PIPELINE = ["launch.num_processes=2", "launch.pipeline=2"]


@pytest.mark.parametrize(
    "words",
    [
        PIPELINE,
        [*PIPELINE, "launch.schedule=gpipe", "train.micro_batch_size=3"],
        [*PIPELINE, "launch.schedule=interleaved_1f1b"],
        [*PIPELINE, "launch.schedule=interleaved_zero_bubble"],
        [*PIPELINE, "launch.schedule=zbv", "train.max_grad_norm=0.1"],
        ["launch.num_processes=4", "launch.pipeline=2", "train.batch_size=5"],
        ["launch.num_processes=4", "launch.pipeline=2", "launch.fsdp=true", *SGD],
        [*PIPELINE, "chain.split=4", "chain.stages.stage0.frozen=true", "chain.stages.stage1.frozen=true"],
        [*PIPELINE, "chain.split=4", "chain.stages.stage3.share={with: stage1}", "launch.schedule=zbv"],
        [*PIPELINE, "chain.split=2", "chain.stages.stage1.lora={r: 2}", "evaluation.before_training=false"],
    ],
)
def test_pipelines_do_so_too(launched: Train, deep_encoder: Path, words: list[str]) -> None:
    if any("lora" in word for word in words):
        pytest.importorskip("peft")
    plain = [word for word in words if not word.startswith("launch.")]
    model = f"model={deep_encoder}"
    alone = launched("launch.num_processes=1", model, *plain, "train.padding_free=false", name="alone")
    pipeline = launched(model, *words, name="pipeline")
    assert_same_runs(alone, pipeline, tolerance=3e-5)
    plans = [json.loads(folder.plan.read_text()) for folder in (alone, pipeline)]
    assert plans[0]["model"] == plans[1]["model"]
    assert plans[1]["processes"]["pipeline"]["places"] == 2
    stages = json.loads((pipeline.path / "pipeline.json").read_text())["stages"]  # For a run that goes on.
    planned = plans[1]["processes"]["pipeline"]["stages"]
    assert [one["blocks"] for one in planned] == [list(range(one["start"], one["stop"])) for one in stages]


def test_a_pipeline_goes_on_as_any_other_division(launched: Train, deep_encoder: Path, tmp_path: Path) -> None:
    """2 x 2 with ties, sharded -> 4 places -> one process -> 2 shards -> interleaved."""
    words = [f"model={deep_encoder}", "train.num_train_epochs=3", *SGD]
    whole = launched(*words, "launch.num_processes=1", "train.padding_free=false", name="whole")
    parts = tmp_path / "parts"
    ways = [
        ["launch.num_processes=4", "launch.pipeline=2", "launch.fsdp=true"],
        ["launch.num_processes=4", "launch.pipeline=4", "launch.fsdp=false"],
        ["launch.num_processes=1", "launch.pipeline=1", "launch.fsdp=false"],
        ["launch.num_processes=2", "launch.pipeline=1", "launch.fsdp=true"],
        ["launch.num_processes=2", "launch.pipeline=2", "launch.fsdp=false", "launch.schedule=interleaved_1f1b"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINFT_TESTING", "1")
        for number, way in enumerate(ways):
            last = number == len(ways) - 1
            patch.setenv("CHAINFT_FAULT", "" if last else f"term@step={3 * number + 4},phase=forward,count=1")
            with nullcontext() if last else pytest.raises(Stopped):
                if number:
                    launch(compose_resumed(str(parts), way))
                else:
                    launched(*words, *way, name="parts")
    assert_same_runs(whole, RunFolder(parts), tolerance=3e-5)


@pytest.mark.parametrize(
    "words",
    [
        ["launch.num_processes=2"],
        ["launch.num_processes=2", "launch.fsdp=true"],
        ["launch.num_processes=2", "launch.pipeline=2"],
        ["launch.num_processes=4", "launch.pipeline=2", "launch.fsdp=true", "launch.timeout_s=20"],
    ],
)
def test_texts_are_written_by_several_processes_as_by_one(
    tiny_decoder: Path, tmp_path: Path, words: list[str]
) -> None:
    rows = [
        {"prompt": f"{one} met", "response": f"{one} in {place}"}
        for one in ("anna", "ben", "emil")
        for place in ("oslo", "paris", "rome")
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = [f"model={tiny_decoder}", "task=generate", "data=jsonl", f"data.train={data}", f"data.test={data}", *SGD]
    given += ["train.batch_size=5", "train.max_steps=4", "report.enabled=false", "train.padding_free=false"]
    given += ["task.max_new_tokens=5"]
    for name, more in {"alone": [], "several": words}.items():
        composed = compose([*given, *more, f"run={tmp_path / name}"])
        launch(composed)
    alone, several = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "several")
    assert_same_runs(alone, several, tolerance=3e-5)
    texts = [
        [json.loads(line)["prediction"] for line in (one.predictions / "test.jsonl").read_text().splitlines()]
        for one in (alone, several)
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 9
