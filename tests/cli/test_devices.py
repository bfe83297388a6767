"""GPUs are counted without torch, and each is named once."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainft.cli import devices

WHOLE = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aa11)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bb22)
"""
SPLIT = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa11)
  MIG 3g.20gb     Device  0: (UUID: MIG-c3)
  MIG 3g.20gb     Device  1: (UUID: MIG-d4)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb22)
"""


@pytest.mark.parametrize(
    ("given", "names"),
    [("0,1", ["0", "1"]), (" 3 , GPU-aa ", ["3", "GPU-aa"]), ("", []), ("-1", []), ("0,-1,1", ["0"])],
)
def test_variable_says_which_devices_there_are(given: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert devices.visible_devices() == names


@pytest.mark.parametrize(
    ("listed", "names"), [(WHOLE, ["GPU-aa11", "GPU-bb22"]), (SPLIT, ["MIG-c3", "MIG-d4", "GPU-bb22"])]
)
def test_driver_says_which_devices_there_are(
    listed: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_text(listed, encoding="utf-8")
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n/bin/cat {tmp_path}/list\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.visible_devices() == names
    assert devices.shares(2, None) == [",".join(names[:2])]


def test_machine_without_a_driver_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.visible_devices() == []
