"""What a run leaves behind appears whole, or says why it does not."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import SafetensorError

from chainft.errors import StorageError
from chainft.run_folder import RunFolder
from chainft.tasks.base import Scores
from chainft.train.finish import scores_to_json, write_artefacts


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["safetensors", "system"],
)
def test_a_full_disk_ends_the_model_folder_with_a_way_on(tmp_path: Path, error: Exception) -> None:
    """fault 27: safetensors raises an exception of its own."""

    class Full:
        def save_pretrained(self, folder: Path, state_dict: object) -> None:
            folder.mkdir()
            raise error

    engine: Any = SimpleNamespace(model=Full(), task=None)
    chain: Any = SimpleNamespace(ties={}, dtypes=dict)
    with pytest.raises(StorageError, match=r"cannot write the model folder .*No space left") as caught:
        write_artefacts(RunFolder(tmp_path), engine, chain, {}, [], report=False)
    assert "resume=true" in caught.value.render()
    assert {path.name for path in tmp_path.iterdir()} == {"all_results.json", "mistakes.jsonl"}


def test_a_score_that_is_not_finite_is_null_in_json() -> None:
    written = scores_to_json(Scores({"perplexity": float("inf"), "accuracy": 0.5}))
    assert written["values"] == {"perplexity": None, "accuracy": 0.5}
