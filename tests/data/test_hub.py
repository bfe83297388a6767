"""Hugging Face data sets: from folders, with class names, with clear words offline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chainft.data.example import Example
from chainft.data.sources.hub import HubConfig, HubSource
from chainft.errors import ConfigError, DataError, SecurityError

ROWS = {"text": ["good", "bad"], "label": [1, 0], "tags": [[0, 1], []]}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No progress bars, and a cache of the test's own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def data_set() -> Any:
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=["neg", "pos"]),
            "tags": List(ClassLabel(names=["O", "B-PER"])),
        }
    )
    return Dataset.from_dict(ROWS, features=features)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    from datasets import DatasetDict

    DatasetDict({"train": data_set(), "dev": data_set().select([1])}).save_to_disk(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def source(path: str, **settings: Any) -> HubSource:
    return HubSource(HubConfig(name="hub", path=path, **settings))


def values(path: str, split: str, **settings: Any) -> list[Any]:
    return [row.values for row in source(path, **settings).read(split) if isinstance(row, Example)]


def test_a_saved_folder_gives_rows_with_class_names(saved: str) -> None:
    assert values(saved, "train") == [
        {"text": "good", "label": "pos", "tags": ["O", "B-PER"]},
        {"text": "bad", "label": "neg", "tags": []},
    ]
    assert values(saved, "dev") == [{"text": "bad", "label": "neg", "tags": []}]
    assert source(saved).column_names("train") == ("text", "label", "tags")


def test_rows_say_where_they_stand(saved: str) -> None:
    rows = list(source(saved).read("train"))
    assert isinstance(rows[1], Example)
    assert rows[1].where() == f"{saved}[train], row 1"


def test_a_shuffled_selection_keeps_its_order(tmp_path: Path) -> None:
    data_set().select([1, 0]).save_to_disk(str(tmp_path / "one"))
    assert [row["text"] for row in values(str(tmp_path / "one"), "train")] == ["bad", "good"]


def test_a_wrong_split_names_the_splits_and_its_key(saved: str) -> None:
    with pytest.raises(DataError) as caught:
        list(source(saved, validation="deve").read("deve"))
    problem = caught.value.problems[0]
    assert (problem.slug, problem.key, problem.help) == ("no-split", "data.validation", "did you mean 'dev'?")


def test_a_folder_of_one_data_set_has_no_test_split(tmp_path: Path) -> None:
    data_set().save_to_disk(str(tmp_path / "one"))
    with pytest.raises(DataError, match="no split 'test'"):
        list(source(str(tmp_path / "one")).read("test"))


def test_a_folder_of_data_files_is_read_and_its_splits_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps({"text": "café"}) + "\n", encoding="utf-8")
    assert values(str(folder), "train") == [{"text": "café"}]
    with pytest.raises(DataError) as caught:
        list(source(str(folder)).read("dev"))
    assert caught.value.problems[0].slug == "no-split"
    assert "there are: train" in caught.value.render()


def test_a_wrong_configuration_names_those_there_are(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(source(str(folder), config_name="german").read("train"))
    assert caught.value.problems[0].key == "data.config_name"
    assert "default" in caught.value.render()


def test_offline_a_hub_name_says_what_to_do() -> None:
    with pytest.raises(DataError) as caught:
        list(source("nobody/such-data").read("train"))
    problem = caught.value.problems[0]
    assert (problem.slug, problem.key) == ("hub-unreachable", "data.path")
    assert "save_to_disk" in (problem.help or "")


def test_a_data_set_with_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    """fault 44."""
    folder = tmp_path / "scripted"
    folder.mkdir()
    marker = tmp_path / "marker"
    (folder / "scripted.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    with pytest.raises((SecurityError, DataError)):
        list(source(str(folder)).read("train"))
    assert not marker.exists()


def _failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load_dataset(*words: object, **options: object) -> None:
        assert not options.get("trust_remote_code")
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)


def test_a_hub_data_set_with_code_is_a_security_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 44."""
    _failing(monkeypatch, RuntimeError("Dataset scripts are no longer supported, but found b.py"))
    with pytest.raises(SecurityError, match="never runs"):
        list(source("a/b").read("train"))


def test_a_bug_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        list(source("a/b").read("train"))


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/folder", "a/b/c", "../x"])
def test_a_folder_that_is_absent_is_a_data_error(path: str) -> None:
    with pytest.raises(DataError) as caught:
        list(source(path).read("train"))
    assert (caught.value.problems[0].slug, caught.value.problems[0].key) == ("no-file", "data.path")


def test_a_file_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n", encoding="utf-8")
    with pytest.raises(DataError, match="is a file"):
        list(source(str(tmp_path / "a.csv")).read("train"))


@pytest.mark.parametrize("format", ["csv", "json", "pandas"])
def test_a_format_is_no_data_set(format: str) -> None:
    with pytest.raises(ConfigError) as caught:
        source(format)
    assert caught.value.problems[0].key == "data.path"


def test_every_reader_of_datasets_is_known_as_a_format() -> None:
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    from chainft.data.sources import hub

    assert set(_PACKAGED_DATASETS_MODULES) <= set(hub._FORMATS)


@pytest.mark.parametrize("settings", [{"revision": "main"}, {"config_name": "x"}])
def test_settings_of_the_hub_are_refused_for_a_saved_folder(saved: str, settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="no effect"):
        list(source(saved, **settings).read("train"))


def test_a_damaged_saved_folder_is_a_data_error(saved: str) -> None:
    """fault 9."""
    for arrow_file in Path(saved, "train").glob("*.arrow"):
        arrow_file.write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        list(source(saved).read("train"))
    assert caught.value.problems[0].slug == "unreadable-data-set"


def test_no_source_imports_a_heavy_library() -> None:
    names = ("conll", "jsonl", "csv", "parquet", "hub")
    code = (
        "import sys, importlib\n"
        f"for name in {names!r}: importlib.import_module(f'chainft.data.sources.{{name}}')\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'accelerate', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
