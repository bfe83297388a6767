"""The facts about the machine: enough to explain a number, nothing that gives a person away."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from chainft import __version__
from chainft.train.environment import environment_facts


def test_versions_and_machine_are_there() -> None:
    facts = environment_facts()
    assert facts["chainft"] == __version__
    assert facts["torch"] == torch.__version__
    assert {
        "python",
        "transformers",
        "tokenizers",
        "accelerate",
        "hydra-core",
        "platform",
        "cpu",
        "devices",
    } <= facts.keys()
    assert facts["cpu_cores"] >= 1
    assert facts["threads"] == torch.get_num_threads()
    assert facts["memory_bytes"] > 10**8
    assert json.loads(json.dumps(facts)) == facts


def test_no_path_host_user_or_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 7."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = json.dumps(environment_facts())
    assert "hf_secret" not in text
    assert not re.search(r'"(/|~|[A-Z]:\\\\)', text)
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text


def test_commit_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "git_commit" not in environment_facts()
    (tmp_path / "a").write_text("1", encoding="utf-8")
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    for arguments in (("init", "-q"), ("add", "a"), (*identity, "commit", "-q", "-m", "x")):
        subprocess.run(("git", *arguments), check=True, capture_output=True)
    facts = environment_facts()
    assert re.fullmatch(r"[0-9a-f]{40}", facts["git_commit"])
    assert facts["git_changed"] is False
    os.utime(tmp_path / "a", (1, 1))  # A `git status` of a user's would now write the index anew.
    index = (tmp_path / ".git" / "index").read_bytes()
    assert environment_facts()["git_changed"] is False
    assert (tmp_path / ".git" / "index").read_bytes() == index
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert environment_facts()["git_changed"] is True


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "git_commit" not in environment_facts()
