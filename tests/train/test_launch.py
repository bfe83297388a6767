"""Runs of several processes give what one process gives, and end in order when one of them does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from chainft.config.compose import compose
from chainft.config.saved import compose_resumed
from chainft.errors import ConfigError, DataError, DistributedError, DivergedError, Stopped
from chainft.run_folder import RunFolder
from chainft.train import launch as launch_module
from chainft.train.checkpoint import CheckpointStore
from chainft.train.launch import launch

Train = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def still_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder without dropout, so that the cut of a batch changes no number."""
    folder = tmp_path_factory.mktemp("still") / "encoder"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def train(still_encoder: Path, ner_files: list[str], tmp_path: Path) -> Train:
    """Trains a few steps as configured and returns the run folder."""

    def run(*words: str, name: str) -> RunFolder:
        folder = tmp_path / name
        settings = [f"model={still_encoder}", "task=ner", "train.batch_size=7", "train.num_train_epochs=2"]
        settings += [
            "optimizer.lr=0.005",
            "report.enabled=false",
            *ner_files,
            f"run={folder}",
            "launch.num_processes=2",
        ]
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        composed = compose([*kept, *words])
        launch(composed)
        return RunFolder(folder)

    return run


def losses(folder: RunFolder) -> list[float]:
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [one["loss"] for one in records if one["kind"] == "train"]


def assert_same_runs(one: RunFolder, other: RunFolder, *, tolerance: float = 1e-5) -> None:
    assert losses(one) == pytest.approx(losses(other), rel=tolerance)
    weights, others = (load_file(folder.model / "model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=tolerance, atol=tolerance)
    first, second = (json.loads(folder.results.read_text()) for folder in (one, other))
    assert first["best"]["step"] == second["best"]["step"]
    for split in ("test", "validation"):
        assert (first[split] is None) == (second[split] is None)
    assert first["test"]["after"]["values"] == pytest.approx(second["test"]["after"]["values"], rel=10 * tolerance)
    if first["test"]["before"]:
        assert first["test"]["before"]["values"] == pytest.approx(second["test"]["before"]["values"], rel=1e-6)


@pytest.fixture
def alone(train: Train) -> RunFolder:
    """The run of one process, through the launcher too."""
    return train("launch.num_processes=1", name="alone")


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_give_the_numbers_of_one(train: Train, alone: RunFolder, count: int) -> None:
    assert_same_runs(alone, train(f"launch.num_processes={count}", name="several"))


@pytest.mark.parametrize(
    "words",
    [
        ["train.micro_batch_size=2", "train.padding_free=false"],
        ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"],
        ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.unfreeze_at=0.5"],
        ["train.batch_size=2", "data.max_train_samples=9"],  # The last batch has one example for two processes.
        ["optimizer=sgd", "optimizer.lr=0.3", "optimizer.options={momentum: 0.9}", "train.max_grad_norm=0.1"],
    ],
)
def test_they_do_so_with_these_settings(train: Train, words: list[str]) -> None:
    assert_same_runs(train(*words, "launch.num_processes=1", name="alone"), train(*words, name="both"))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train.micro_batch_size=2", "train.batch_size=5", "train.gradient_checkpointing=true"],
        ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"],
        ["chain.split=2", "chain.stages.stage1.share={with: stage0}"],
        [
            "chain.split=2",
            "chain.stages.stage1.lora={r: 2}",
            "chain.stages.stage0.frozen=true",
            "evaluation.before_training=false",
        ],
        ["optimizer=sgd", "optimizer.lr=0.3", "train.max_grad_norm=0.1", "launch.reshard_after_forward=false"],
        ["train.mixed_precision=bf16"],
    ],
)
def test_sharded_processes_do_so_too(train: Train, words: list[str]) -> None:
    plain = [word for word in words if not word.startswith("launch.")]
    if any("lora" in word for word in words):
        pytest.importorskip("peft")
    alone = train("launch.num_processes=1", *plain, "train.padding_free=false", name="alone")
    tolerance = 1e-5 if "train.mixed_precision=bf16" not in words else 3e-3
    assert_same_runs(alone, train("launch.fsdp=true", *words, name="sharded"), tolerance=tolerance)


def test_a_sharded_run_goes_on_with_another_number_of_processes(train: Train, tmp_path: Path) -> None:
    """4 shards -> 1 process -> 2 shards (fault 36)."""
    words = ["train.padding_free=false"]
    whole = train(*words, "launch.num_processes=1", name="whole")
    parts = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINFT_TESTING", "1")
        patch.setenv("CHAINFT_FAULT", "term@step=4,phase=forward,rank=3,count=1")
        with pytest.raises(Stopped):
            train(*words, "launch.num_processes=4", "launch.fsdp=true", name="parts")
        patch.setenv("CHAINFT_FAULT", "term@step=8,phase=forward,count=1")
        with pytest.raises(Stopped):
            launch(compose_resumed(str(parts), ["launch.num_processes=1", "launch.fsdp=false"]))
    launch(compose_resumed(str(parts), ["launch.num_processes=2", "launch.fsdp=true"]))
    assert_same_runs(whole, RunFolder(parts))


def test_a_run_goes_on_with_another_number_of_processes(train: Train, alone: RunFolder, tmp_path: Path) -> None:
    """4 -> 1 -> 2 processes (fault 36), stopped each time by one that is asked to."""
    words = ["train.padding_free=false"]
    whole = train(*words, "launch.num_processes=1", name="whole")
    parts = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINFT_TESTING", "1")
        patch.setenv("CHAINFT_FAULT", "term@step=4,phase=forward,rank=3,count=1")
        with pytest.raises(Stopped):
            train(*words, "launch.num_processes=4", name="parts")
        assert (parts / "checkpoints" / "last").resolve().name == "step-000004"
        patch.setenv("CHAINFT_FAULT", "term@step=8,phase=forward,count=1")
        with pytest.raises(Stopped):
            launch(compose_resumed(str(parts), ["launch.num_processes=1"]))
    launch(compose_resumed(str(parts), ["launch.num_processes=2"]))
    assert_same_runs(whole, RunFolder(parts))


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setenv("CHAINFT_TESTING", "1")
    return lambda what: monkeypatch.setenv("CHAINFT_FAULT", what)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (
            "kill@step=9,phase=forward,rank=1",
            "rank 1 of 2 (was killed by SIGKILL|died without a word.*); the last whole step is 8",
        ),
        (
            "kill@step=9,phase=forward,rank=0",
            "rank 0 of 2 (was killed by SIGKILL|died without a word.*); the last whole step is 8",
        ),
        ("raise@step=9,phase=backward,rank=1", "rank 1 of 2 failed: chainft.train.faults.InjectedError"),
        ("sleep@step=9,phase=forward,rank=1,seconds=600", "rank 1 of 2 did not answer within launch.timeout_s = 8 s"),
    ],
)
def test_a_process_that_fails_ends_the_run_with_its_rank(
    train: Train, fault: Callable[[str], None], tmp_path: Path, what: str, told: str
) -> None:
    """Faults 33 and 34; what was saved is whole."""
    fault(what)
    start = time.monotonic()
    with pytest.raises(DistributedError) as caught:
        train(*(["launch.timeout_s=8"] if what.startswith("sleep") else []), name="run")
    assert re.search(told, caught.value.render())
    assert "resume=true" in caught.value.render()
    assert time.monotonic() - start < 240  # Far below what the process would sleep, whatever else the machine does.
    if what.startswith("sleep"):
        assert "faults.py" in (tmp_path / "run" / "stacks_rank_1.txt").read_text(encoding="utf-8")
    found = CheckpointStore(tmp_path / "run" / "checkpoints").latest()
    assert found is not None and found.step == 6


@pytest.mark.parametrize("step", [2, 9])
def test_a_run_that_lost_a_process_starts_again_by_itself(
    train: Train, alone: RunFolder, fault: Callable[[str], None], tmp_path: Path, step: int
) -> None:
    """Before the first checkpoint and after it."""
    marker = tmp_path / "happened"
    fault(f"kill@step={step},phase=forward,rank=1,once={marker}")
    assert_same_runs(alone, train("launch.max_restarts=1", name="again"))
    assert marker.exists()


def test_it_does_so_before_anything_was_saved(
    train: Train, alone: RunFolder, fault: Callable[[str], None], tmp_path: Path
) -> None:
    fault(f"kill@step=2,phase=forward,rank=0,once={tmp_path / 'happened'}")
    assert_same_runs(alone, train("launch.max_restarts=1", name="again"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_leaves_early_with_exit_code_0_ends_the_run(
    train: Train, fault: Callable[[str], None], rank: int
) -> None:
    """Fault 33: where others wait for it at the store too."""
    fault(f"exit@step=6,phase=save,rank={rank}")
    start = time.monotonic()
    with pytest.raises(DistributedError) as caught:
        train(name="run")
    assert f"rank {rank} of 2 died without a word" in caught.value.render()
    assert time.monotonic() - start < 240


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_killed_in_an_asynchronous_save_changes_nothing(
    train: Train, alone: RunFolder, fault: Callable[[str], None], tmp_path: Path, rank: int
) -> None:
    """Fault 24: shards are written while the training goes on; it starts again from what was committed before."""
    marker = tmp_path / "happened"
    fault(f"kill@step=6,phase=save.optimizer,rank={rank},once={marker}")
    saving = ["checkpoint.asynchronous=true", "checkpoint.every=2", "launch.fsdp=true", "launch.max_restarts=1"]
    assert_same_runs(alone, train(*saving, "train.padding_free=false", name="again"))
    assert marker.exists()
    last = (tmp_path / "again" / "checkpoints" / "last").resolve()
    assert {path.name for path in last.glob("model*")} == {f"model-0000{one}-of-00002.safetensors" for one in (1, 2)}


def test_the_fault_of_one_process_is_told_once_and_not_tried_again(train: Train, fault: Callable[[str], None]) -> None:
    fault("nan@step=3,rank=1")
    with pytest.raises(DivergedError) as caught:
        train("launch.max_restarts=3", name="run")
    assert "step 3" in caught.value.render() and "rank" not in caught.value.render()


def test_bad_data_are_told_as_by_one_process(train: Train, tmp_path: Path) -> None:
    bad = tmp_path / "bad.conll"
    bad.write_text("Anna B-PER\nParis I-LOC X\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        train(f"data.train={bad}", name="run")
    assert "bad.conll" in caught.value.render() and "rank" not in caught.value.render()


def test_memory_that_one_process_lacks_makes_all_take_smaller_micro_batches(
    train: Train, alone: RunFolder, fault: Callable[[str], None]
) -> None:
    """Fault 30."""
    fault("oom@step=3,phase=forward,rank=1,count=1")
    assert_same_runs(alone, train(name="both"))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("phase", ["forward", "save.model"])
def test_a_signal_to_one_process_stops_and_saves_all(
    train: Train, alone: RunFolder, fault: Callable[[str], None], tmp_path: Path, rank: int, phase: str
) -> None:
    """Fault 26."""
    fault(f"term@step=6,phase={phase},rank={rank},count=1")
    with pytest.raises(Stopped):
        train(name="run")
    launch(compose_resumed(str(tmp_path / "run"), []))
    assert_same_runs(alone, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_that_tokenises_stops_all(
    train: Train, fault: Callable[[str], None], rank: int
) -> None:
    """Fault 26: they have not agreed yet to stop together."""
    fault(f"term@phase=tokenise,rank={rank},count=1")
    with pytest.raises(Stopped):
        train("launch.max_restarts=1", name="run")


def test_a_signal_that_comes_before_the_processes_are_there_is_not_lost(train: Train, tmp_path: Path) -> None:
    before = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    started = patch.object(launch_module, "_elastic_config", side_effect=lambda *one: before.start() or _config(*one))
    with started, pytest.raises(Stopped):
        train("train.num_train_epochs=50", name="run")


_config = launch_module._elastic_config


def test_a_machine_that_meets_no_other_one_says_so(train: Train) -> None:
    words = ["launch.num_machines=2", "launch.main_process_ip=127.0.0.1", "launch.timeout_s=2"]
    with pytest.raises(DistributedError) as caught:
        train(*words, "launch.main_process_port=29517", name="run")
    assert "launch.main_process_ip" in caught.value.render() and "127.0.0.1:29517" in caught.value.render()


@pytest.mark.slow
def test_a_signal_to_the_whole_group_of_processes_saves(
    still_encoder: Path, ner_files: list[str], tmp_path: Path
) -> None:
    """As `timeout`, and many schedulers, send it: what the workers are forks of gets it too, and must outlive them."""
    run = RunFolder(tmp_path / "run")
    words = [f"model={still_encoder}", "task=ner", "train.num_train_epochs=500", *ner_files, f"run={run.path}"]
    command = [sys.executable, "-m", "chainft", "train", *words, "launch.num_processes=2"]
    started = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while started.poll() is None and not (run.metrics.is_file() and len(run.metrics.read_text().splitlines()) > 3):
        time.sleep(0.2)
    os.killpg(started.pid, signal.SIGTERM)
    _, told = started.communicate(timeout=60)
    assert started.returncode == 75, told
    found = CheckpointStore(run.checkpoints).latest()
    assert found is not None and found.step > 3


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


SGD = ["optimizer=sgd", "optimizer.lr=0.3", "optimizer.options={momentum: 0.9}"]
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
def test_pipelines_do_so_too(train: Train, deep_encoder: Path, words: list[str]) -> None:
    if any("lora" in word for word in words):
        pytest.importorskip("peft")
    plain = [word for word in words if not word.startswith("launch.")]
    model = f"model={deep_encoder}"
    alone = train("launch.num_processes=1", model, *plain, "train.padding_free=false", name="alone")
    pipeline = train(model, *words, name="pipeline")
    assert_same_runs(alone, pipeline, tolerance=3e-5)
    plans = [json.loads(folder.plan.read_text()) for folder in (alone, pipeline)]
    assert plans[0]["model"] == plans[1]["model"]
    assert plans[1]["processes"]["pipeline"]["places"] == 2


def test_a_pipeline_goes_on_as_any_other_division(train: Train, deep_encoder: Path, tmp_path: Path) -> None:
    """2 x 2 with ties, sharded -> 4 places -> one process -> 2 shards -> interleaved."""
    words = [f"model={deep_encoder}", "train.num_train_epochs=3", *SGD]
    whole = train(*words, "launch.num_processes=1", "train.padding_free=false", name="whole")
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
                    train(*words, *way, name="parts")
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


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torch.distributed.run", "accelerate.commands.launch"])
def test_other_launchers_start_the_same_run(
    train: Train, alone: RunFolder, still_encoder: Path, ner_files: list[str], tmp_path: Path, launcher: str
) -> None:
    """Their processes find each other by the environment, share one run folder, and the first one speaks."""
    given = {"torch.distributed.run": ["--nproc_per_node=2"], "accelerate.commands.launch": [*_ACCELERATE]}[launcher]
    words = [f"model={still_encoder}", "task=ner", "train.batch_size=7", "train.num_train_epochs=2"]
    words += ["optimizer.lr=0.005", "report.enabled=false", *ner_files, f"run={tmp_path / 'launched'}"]
    command = [sys.executable, "-m", launcher, *given, "-m", "chainft", "train", *words]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("try the model on your own words") == 1
    assert_same_runs(alone, RunFolder(tmp_path / "launched"))


_ACCELERATE = ("--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")


def test_what_one_process_finds_wrong_ends_all_at_once(train: Train) -> None:
    with pytest.raises(ConfigError) as caught:
        train("launch.num_processes=2", "launch.pipeline=2", "launch.schedule=zbv", name="run")
    assert "needs 4 stages, 2 a place, and the model has 2 blocks" in caught.value.render()
