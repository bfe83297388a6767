"""Runs of several processes, for tests of launching and of division."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chainft.config.compose import compose
from chainft.run_folder import RunFolder
from chainft.train.launch import launch

Train = Callable[..., RunFolder]


@pytest.fixture(scope="session")
def still_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder without dropout, so that the cut of a batch changes no number."""
    folder = tmp_path_factory.mktemp("still") / "encoder"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def launched(still_encoder: Path, ner_files: list[str], tmp_path: Path) -> Train:
    """Trains a few steps by two processes or as configured and returns the run folder."""

    def run(*words: str, name: str) -> RunFolder:
        folder = tmp_path / name
        settings = [f"model={still_encoder}", "task=ner", "train.batch_size=7", "train.num_train_epochs=2"]
        settings += ["optimizer.lr=0.005", "report.enabled=false", *ner_files, f"run={folder}"]
        settings += ["launch.num_processes=2"]
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        launch(compose([*kept, *words]))
        return RunFolder(folder)

    return run


@pytest.fixture
def alone(launched: Train) -> RunFolder:
    """The run of one process, through the launcher too."""
    return launched("launch.num_processes=1", name="alone")


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets something fail in the processes of the test (`chainft.train.faults`)."""
    monkeypatch.setenv("CHAINFT_TESTING", "1")
    return lambda what: monkeypatch.setenv("CHAINFT_FAULT", what)
