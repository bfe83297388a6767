"""The doctor tells what is there and what is missing for what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chainft import __version__
from chainft.cli import doctor
from chainft.cli.main import main


def test_facts_are_printed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for part in (f"chainft {__version__}", "transformers", "CPU cores", "hub cache", "extras", "search path"):
        assert part in printed


def test_facts_are_printed_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["missing"] == [] and facts["memory_bytes"]["total"] > 0
    assert facts["disk_free_bytes"] > 0


def test_missing_package_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("torch", "optuna") else real(name))
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "MISSING: pip install torch" in printed
    assert "missing optuna: pip install 'chainft[sweep]'" in printed


def test_weights_in_the_cache_are_listed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hub" / "models--google--bert_x").mkdir(parents=True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    main(["doctor"])
    assert "google/bert_x" in capsys.readouterr().out
