"""`chainft config show` explains, `train --cfg` and `--info` show, and both hint."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chainft.cli.main import main

RUN = ["task=toy", "data.name=toy"]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("subject", "parts"),
    [
        ([], ["optimizer ", "values: adafactor, adamw", "seed = 42", "experiment"]),
        (["optimizer"], ["optimizer=sgd", "optimizer.lr = 5e-05", "a number in (0, inf)", "Peak learning rate."]),
        (["optimizer.lr"], ["optimizer.lr = 5e-05"]),
        (["task"], ["task=ner", "with task.name = toy", "task.scheme = 'auto'", "How tags are written."]),
        (["task.scheme"], ["task.scheme"]),
        (["task=ner"], ["name: ner", "# chainft: task/ner.yaml"]),
        (["data"], ["data.separator = null"]),
        (["model=starter"], ["lr: 3.0e-4", "optimizer:"]),
        (["sweep"], ["sweep.num_trials"]),
        (["experiment"], ["experiment=ner_short"]),
        (["train.batch_size", "seed"], ["train.batch_size = 32", "seed = 42"]),
    ],
)
def test_settings_are_explained(subject: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, "config", "show", *subject)
    assert all(part in printed for part in parts)


@pytest.mark.parametrize(
    ("subject", "help"),
    [
        ("optimizer.lrr", "did you mean 'optimizer.lr'?"),
        ("learning_rate", "did you mean 'optimizer.lr'?"),
        ("optimizer=sgdd", "did you mean 'sgd'?"),
        ("optimizr=sgd", "did you mean 'optimizer'?"),
    ],
)
def test_unknown_subject_gets_a_hint(subject: str, help: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", subject]) == 2
    assert help in capsys.readouterr().err


def test_users_files_are_listed_and_shown(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = toy / "conf" / "optimizer" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# Mine.\nlr: 0.5\n", encoding="utf-8")
    assert "optimizer=mine" in shown(capsys, "config", "show", "optimizer")
    assert "# ./conf: optimizer/mine.yaml" in shown(capsys, "config", "show", "optimizer=mine")


def test_cfg_job_prints_the_whole_config(capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load(shown(capsys, "train", *RUN, "--cfg", "job", "seed=${train.batch_size}"))
    assert config["seed"] == "${train.batch_size}"
    assert config["train"]["batch_size"] == 32
    assert "hydra" not in config


def test_cfg_resolved_prints_values(capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, "train", "-c", "job", "--resolve", *RUN, "seed=${train.batch_size}")
    assert yaml.safe_load(printed)["seed"] == 32


def test_cfg_of_a_package_prints_only_that(capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, "train", *RUN, "--cfg=job", "--package", "scheduler")
    assert yaml.safe_load(printed)["name"] == "linear"
    assert main(["train", *RUN, "--cfg=job", "--package", "schedular"]) == 2
    assert "did you mean 'scheduler'?" in capsys.readouterr().err


def test_cfg_hydra_and_all_hold_hydras_own_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(yaml.safe_load(shown(capsys, "train", *RUN, "--cfg", "hydra"))) == {"hydra"}
    assert {"hydra", "task"} <= set(yaml.safe_load(shown(capsys, "train", *RUN, "--cfg", "all")))


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        (["searchpath"], ["--config-dir", "chainft", "more"]),
        (["defaults"], ["model/starter", "package _global_", "task/"]),
        (["config"], ["batch_size: 32"]),
        ([], ["search path", "merged", "batch_size: 32"]),
    ],
)
def test_info_tells_how_the_config_came_about(
    what: list[str], parts: list[str], toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / "more" / "task").mkdir(parents=True)
    (toy / "more" / "task" / "mine.yaml").write_text("name: toy\n", encoding="utf-8")
    words = ["task=mine", "data.name=toy", "--config-dir", "more", "--info", *what]
    printed = shown(capsys, "train", *words)
    assert all(part in printed for part in parts)


def test_cfg_of_a_wrong_config_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *RUN, "--cfg", "job", "optimizer.lr=-1"]) == 2
    assert "outside (0, inf)" in capsys.readouterr().err


def test_help_of_each_command_names_its_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("train", "config", "doctor", "completion"):
        assert f"usage: chainft {verb}" in shown(capsys, verb, "--help")


@pytest.mark.parametrize(
    "flags",
    [["--resolve"], ["-p", "optimizer"], ["-cn", "train", "run=nowhere", "resume=true"], ["-m", "--resolve"]],
    ids=" ".join,
)
def test_a_flag_that_would_do_nothing_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *RUN, *flags]) == 2
    assert "has no effect" in capsys.readouterr().err
