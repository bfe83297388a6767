"""The script for Slurm, run by a Slurm that only pretends."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from chainft.cli.main import main
from chainft.cli.train import run
from chainft.errors import ConfigError

SRUN = """#!/bin/bash
for node in 0 1; do SLURM_NODEID=$node "$@" || exit; done
"""
CHAINFT = """#!/bin/bash
printf '%s|' "$@" >> "$SEEN"
echo >> "$SEEN"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which `srun` and `scontrol` pretend to have two machines, and `chainft` writes its words down."""
    scripts = {"srun": SRUN, "chainft": CHAINFT, "scontrol": "#!/bin/bash\nprintf 'one\\ntwo\\n'\n"}
    for name, text in scripts.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    found = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SEEN": str(tmp_path / "seen")}
    return {**os.environ, **found, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}


def seen(script: str, slurm: dict[str, str], folder: Path) -> list[list[str]]:
    Path(slurm["SEEN"]).unlink(missing_ok=True)
    subprocess.run(["bash", "-c", script], env=slurm, cwd=folder, check=True)
    return [line.split("|")[:-1] for line in Path(slurm["SEEN"]).read_text().splitlines()]


def test_each_machine_starts_its_part_of_one_run_and_goes_on_with_it(
    slurm: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["task=ner", "launch.num_processes=16", "launch.num_machines=2", "data.columns.text=it's"]
    assert main(["train", *words, "--print-sbatch"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --nodes=2\n" in script and "#SBATCH --gpus-per-node=8\n" in script
    first, second = seen(script, slurm, tmp_path)
    shared = ["train", "task=ner", "launch.num_processes=16", "data.columns.text=it's", "run=runs/ner-7"]
    assert first == [*shared, "launch.num_machines=2", "launch.machine_rank=0", "launch.main_process_ip=one"]
    assert second == [*shared, "launch.num_machines=2", "launch.machine_rank=1", "launch.main_process_ip=one"]
    (tmp_path / "runs/ner-7").mkdir(parents=True)
    (tmp_path / "runs/ner-7/config.yaml").touch()  # It goes on with one that had saved nothing yet, too.
    again, _ = seen(script, slurm, tmp_path)
    assert again[:3] == ["train", "run=runs/ner-7", "resume=true"] and again[3:] == first[5:]


def test_one_machine_needs_no_address(
    slurm: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["task=ner", "run=my run", "train.device=cpu", "--print-sbatch"])
    script = capsys.readouterr().out
    assert "gpus" not in script
    assert seen(script, slurm, tmp_path)[0] == ["train", "task=ner", "train.device=cpu", "run=my run"]


@pytest.mark.parametrize(
    "words", [["-m", "task=ner", "seed=1,2"], ["task=ner", "launch.num_processes=auto"], ["run=x", "resume=true"]]
)
def test_what_a_script_cannot_start_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        run([*words, "--print-sbatch"])
