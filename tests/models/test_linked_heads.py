"""A saved folder of linked models as a start: its heads for labels in another order, and new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chainft.config.chain import AuxiliaryConfig, ShareConfig, StageConfig
from chainft.config.run import ModelConfig
from chainft.errors import ModelError
from chainft.models.load import load_model
from chainft.models.load_headed import load_trained
from chainft.stages.links import LinkedModel
from chainft.tasks.base import Labels
from chainft.tasks.ner import Ner
from tests.stages.test_links import NAMES, linked, ner

IDS = torch.tensor([[2, 10, 11, 12, 13, 3]])
HEADS = ("stages.first.classifier", "stages.second.classifier")
LAYER = "encoder.layer.0.output.dense.weight"


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """Two stages with a head each, shared blocks and a connector."""
    stages = {
        "first": StageConfig(auxiliary=AuxiliaryConfig()),
        "second": StageConfig(connector="linear", share=ShareConfig(with_="first", parameters="attention.*")),
    }
    model, _ = linked(tiny_encoder, stages)
    model.save_pretrained(tmp_path)
    ner(tiny_encoder).tokenizer.save_pretrained(tmp_path)
    return tmp_path


def loaded(folder: Path, names: tuple[str, ...], **settings: Any) -> tuple[LinkedModel, tuple[str, ...]]:
    task = with_names(folder, names)
    found = load_model(ModelConfig(path=str(folder), **settings), task, seed=5)
    assert isinstance(found.model, LinkedModel)
    return found.model.eval(), found.new


def with_names(folder: Path, names: tuple[str, ...]) -> Ner:
    task = ner(folder)
    task.labels = Labels(names)
    return task


def logits_of(model: LinkedModel) -> list[Tensor]:
    """Of both heads."""
    hidden: dict[str, Tensor] = {}
    found = []
    for name in model.links:
        output, hidden[name] = model.run_stage(name, {"input_ids": IDS}, hidden)
        found.append(output.logits)
    return found


def test_labels_in_another_order_reorder_every_head(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = logits_of(loaded(folder, NAMES)[0])
    order = [2, 0, 1]
    names = tuple(NAMES[index] for index in order)
    model, new = loaded(folder, names)
    assert new == ()
    for old, now in zip(before, logits_of(model), strict=True):
        assert torch.equal(now, old[..., order])
    again = tmp_path_factory.mktemp("again")
    model.save_pretrained(again)
    with_names(folder, names).tokenizer.save_pretrained(again)
    reloaded: Any = load_trained(str(again), with_names(again, names))
    assert reloaded.config.links()["first"].architecture().id2label == dict(enumerate(names))
    assert torch.equal(logits_of(reloaded)[0], logits_of(model)[0])


@pytest.mark.parametrize("names", [("O", "B-X"), ("O", "B-X", "I-X"), ("O", "B-X", "I-X", "B-Y", "I-Y")])
def test_heads_for_other_labels_are_refused_unless_new_ones_are_asked_for(
    folder: Path, names: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(ModelError, match="head for other labels"):
        loaded(folder, names)
    old, _ = loaded(folder, NAMES)
    model, new = loaded(folder, names, head="new")
    assert set(new) == {f"{head}.{kind}" for head in HEADS for kind in ("weight", "bias")}
    assert [head.shape[-1] for head in logits_of(model)] == [len(names)] * 2
    state = model.state_dict()
    for name, value in old.state_dict().items():
        if name not in new:
            assert torch.equal(state[name], value), name
    again = tmp_path_factory.mktemp("again")
    model.save_pretrained(again)
    with_names(folder, names).tokenizer.save_pretrained(again)
    assert torch.equal(logits_of(loaded(again, names)[0])[1], logits_of(model)[1])


def test_new_heads_differ_from_old_ones_of_the_same_labels(folder: Path) -> None:
    old, _ = loaded(folder, NAMES)
    model, _ = loaded(folder, NAMES, head="new")
    for head in HEADS:
        name = f"{head}.weight"
        assert not torch.equal(model.get_parameter(name), old.get_parameter(name))


@pytest.mark.parametrize("name", [f"stages.second.bert.{LAYER}", "connectors.second.first.weight"])
def test_weights_that_do_not_fill_the_stages_are_refused(folder: Path, name: str) -> None:
    """fault 19"""
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=name):
        loaded(folder, NAMES)
