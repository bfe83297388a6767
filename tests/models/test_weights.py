"""What may be loaded, and what is refused before transformers sees it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from chainft.config.packaged import PACKAGED
from chainft.config.run import ModelConfig
from chainft.errors import ChainftError, ConfigError, ModelError, SecurityError
from chainft.models.weights import locate


def refused(config: ModelConfig, kind: type[ChainftError]) -> str:
    with pytest.raises(kind) as caught:
        locate(config)
    return caught.value.render()


def test_a_folder_with_safe_weights_is_found(tiny_encoder: Path) -> None:
    place = locate(ModelConfig(path=str(tiny_encoder)))
    assert place.folder == tiny_encoder
    assert place.options() == {"trust_remote_code": False}


def test_a_hub_name_is_passed_on_with_its_revision() -> None:
    place = locate(ModelConfig(path="google-bert/bert-base-cased", revision="main"))
    assert place.folder is None
    assert place.options()["revision"] == "main"


def test_a_revision_of_a_local_folder_is_refused(tiny_encoder: Path) -> None:
    assert "has no effect" in refused(ModelConfig(path=str(tiny_encoder), revision="main"), ConfigError)


def test_a_misspelt_folder_names_the_nearest(tiny_encoder: Path) -> None:
    text = refused(ModelConfig(path=str(tiny_encoder) + "s"), ModelError)
    assert "does not exist" in text
    assert str(tiny_encoder) in text


@pytest.mark.parametrize(("path", "meant"), [("starterr", "starter"), ("Starter", "starter"), ("smolm2", "smollm2")])
def test_a_misspelt_short_name_names_the_nearest_without_a_network(path: str, meant: str) -> None:
    text = refused(ModelConfig(path=path), ModelError)
    assert f"there is no model {path!r}" in text
    assert f"did you mean {meant!r}?" in text


@pytest.mark.parametrize("path", ["someone/starterr", "bert-base-cased", "gpt2", "t5-small", "distilgpt2"])
def test_names_of_the_hub_are_no_misspelt_short_names(path: str) -> None:
    assert locate(ModelConfig(path=path)).name == path


def test_a_file_is_not_a_model_folder(tiny_encoder: Path) -> None:
    assert "is a file" in refused(ModelConfig(path=str(tiny_encoder / "config.json")), ModelError)


def test_a_folder_without_weights_is_refused_unless_none_are_wanted(tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_encoder / "config.json", tmp_path)
    assert "no weights" in refused(ModelConfig(path=str(tmp_path)), ModelError)
    assert locate(ModelConfig(path=str(tmp_path), pretrained=False)).folder == tmp_path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "tf_model.h5"])
def test_pickled_weights_are_refused_and_never_opened(tiny_encoder: Path, tmp_path: Path, name: str) -> None:
    """fault 23, fault 44"""
    shutil.copy(tiny_encoder / "config.json", tmp_path)
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
    text = refused(ModelConfig(path=str(tmp_path)), SecurityError)
    assert name in text
    assert "save_pretrained" in text


@pytest.mark.parametrize("at", ["", "text_config"])
@pytest.mark.parametrize("entry", [{"auto_map": {"AutoModel": "evil.Model"}}, {"trust_remote_code": True}])
def test_a_config_that_asks_for_its_own_code_is_refused_even_nested(
    tiny_encoder: Path, tmp_path: Path, at: str, entry: dict[str, object]
) -> None:
    """fault 23"""
    folder = shutil.copytree(tiny_encoder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {at: entry} if at else entry
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "own Python code" in refused(ModelConfig(path=str(folder)), SecurityError)


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json", encoding="utf-8")
    assert "config.json" in refused(ModelConfig(path=str(tmp_path)), ModelError)


def test_weights_of_a_package_that_is_absent_say_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, weights in PACKAGED.items():
        assert f"chainft[{weights.extra}]" in refused(ModelConfig(path=name), ModelError)
