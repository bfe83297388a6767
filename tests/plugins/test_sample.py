"""A package of somebody else's, `tests/sample_plugin`: its task, source, metric, head and YAML in use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from chainft import registry
from chainft.cli.main import main
from chainft.config.compose import compose
from chainft.infer.trained import load_run
from tests.plugins.conftest import Chainft, Install, write_metadata
from tests.plugins.test_new import entry_points

SAMPLE = Path(__file__).parents[1] / "sample_plugin"
PACKAGE = SAMPLE / "src" / "chainft_stars"


@pytest.fixture
def sample(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package on the path of this process, as pip installs it."""
    site = install("chainft-stars", entry_points(SAMPLE), version="0.3.0", requires="chainft>=0.1")
    shutil.copytree(PACKAGE, site / "chainft_stars")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    registry.plugins.cache_clear()
    return site


def words(encoder: Path) -> list[str]:
    return ["train", "experiment=stars_by_angle", f"model={encoder}", "run=run", "optimizer.lr=3e-3"]


def test_it_trains_evaluates_and_predicts_by_its_own_yaml(
    sample: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(tiny_encoder), "train.max_steps=30"]) == 0
    results = json.loads(Path("run", "all_results.json").read_text(encoding="utf-8"))
    after = results["test"]["after"]["values"]["stars_error"]
    assert results["main_metric"] == "stars_error" and after < results["test"]["before"]["values"]["stars_error"]
    assert results["baselines"]["mean"]["stars_error"] == pytest.approx(2 / 3)
    assert all(record["loss"] > 0 and record["grad_norm"] > 0 for record in records("train"))
    lowest = min(record["values"]["stars_error"] for record in evaluations())
    assert results["best"]["value"] == lowest
    capsys.readouterr()
    assert main(["evaluate", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["stars_error"] == pytest.approx(after)
    assert main(["predict", "run", "great day"]) == 0
    prediction = json.loads(capsys.readouterr().out)
    assert 1 <= prediction["stars"] <= 3
    assert sum(prediction["scores"].values()) == pytest.approx(1)
    page = Path("run", "report.html").read_text(encoding="utf-8")
    assert "Star ratings" in page and "stars too many or too few, on average" in page
    assert "Good, but far too small." in page


def evaluations() -> list[dict[str, Any]]:
    return [record for record in records("evaluation") if record["split"] == "validation"]


def records(kind: str) -> list[dict[str, Any]]:
    lines = Path("run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_the_head_of_the_package_is_on_the_model_that_is_read_again(sample: Path, tiny_encoder: Path) -> None:
    assert main([*words(tiny_encoder), "train.max_steps=1"]) == 0
    layer: Any = load_run(Path("run")).model.classifier
    assert type(layer).__name__ == "CosineLayer" and layer.directions.shape == (3, 32)


def test_the_stage_of_the_package_is_trained_saved_and_read_again(
    sample: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [word for word in words(tiny_encoder) if not word.startswith("experiment=")]
    chain = ["task=stars", "chain=recurrent", "chain.stages.top.kind.name=smooth", "chain.stages.top.kind.share=0.25"]
    assert main([*plain, *chain, "train.max_steps=2"]) == 0
    stage: Any = load_run(Path("run")).model.stages["top"]
    shares = stage.body.blocks[0].module.shares
    assert shares.shape == (32,) and 0 < abs(shares - 0.25).max() < 0.1
    capsys.readouterr()
    assert main(["predict", "run", "great day"]) == 0
    assert json.loads(capsys.readouterr().out)["stars"] >= 1
    assert main(["evaluate", "run"]) == 0


def test_its_values_are_listed_and_its_settings_explained(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "show"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("stars_by_angle", "starter_stars", "survey", "cosine"))
    main(["config", "show", "head=cosine", "task=stars"])
    printed = capsys.readouterr().out
    assert "head.scale = 10.0" in printed and "The most stars that there are." in printed


def test_data_of_the_task_come_with_it_and_words_win_over_its_yaml(sample: Path, tiny_encoder: Path) -> None:
    config = compose(["task=stars", f"model={tiny_encoder}", "data.divider=;"]).config
    assert config.data.train == "pkg://chainft_stars/starter/train.txt"
    assert getattr(config.data, "divider", None) == ";"


def test_yaml_of_the_user_wins_over_that_of_the_package(sample: Path) -> None:
    folder = Path("conf", "task")
    folder.mkdir(parents=True)
    (folder / "stars.yaml").write_text("name: stars\nmost: 9\n", encoding="utf-8")
    assert getattr(compose(["task=stars"]).config.task, "most", None) == 9


def test_a_wrong_value_of_its_settings_is_an_error_like_ours(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "task=stars", "head=cosine", "head.scale=-1", "task.mots=3"]) == 2
    printed = capsys.readouterr().err
    assert "head.scale = -1 is outside (0, inf)" in printed and "did you mean 'task.most'?" in printed


def test_a_row_that_its_task_refuses_is_told_with_its_line(
    sample: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.txt").write_text("1 | good\n7 | bad\n", encoding="utf-8")
    found = ["data=survey", "data.train=rows.txt", f"model={tiny_encoder}"]
    assert main(["train", "task=stars", *found]) == 3
    assert "rows.txt:2" in capsys.readouterr().err


def test_without_the_package_its_run_names_what_is_missing(
    sample: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(tiny_encoder), "train.max_steps=1"]) == 0
    monkeypatch.setenv("CHAINFT_PLUGINS", "")
    capsys.readouterr()
    assert main(["predict", "run", "great day"]) == 10
    assert "add 'chainft-stars' to CHAINFT_PLUGINS" in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_command_uses_it(chainft: Chainft, tiny_encoder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    write_metadata(site, "chainft-stars", entry_points(SAMPLE), version="0.3.0")
    shutil.copytree(PACKAGE, site / "chainft_stars")
    env = {"PYTHONPATH": str(site)}
    done = chainft(*words(tiny_encoder), env=env)
    assert done.returncode == 0, done.stderr
    assert chainft("evaluate", "run", env=env).returncode == 0
    assert "stars" in json.loads(chainft("predict", "run", "great day", env=env).stdout)
    doctor = chainft("doctor", env=env).stdout
    for line in ("task stars", "source survey", "metric stars_error", "head cosine", "stage smooth"):
        assert f"{line} (chainft-stars 0.3.0): loads" in doctor
    missing = chainft("predict", "run", "great day")
    assert missing.returncode == 2 and "task 'stars' does not exist" in missing.stderr
