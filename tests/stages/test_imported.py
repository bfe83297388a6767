"""Weights of an earlier run: which values a parameter takes, and when there is no telling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from chainft.errors import CheckpointError, ModelError
from chainft.stages.sharing import untied_state
from tests.stages.test_chain import bert, chained, llama, two


def saved(model: PreTrainedModel, folder: Path, **chain: Any) -> str:
    """A run folder with the model, as far as `from` reads it."""
    ties = chained(model, **chain).ties if chain else {}
    model.save_pretrained(folder / "model", state_dict=untied_state(model, ties))
    (folder / "model" / "chainft.json").write_text(f'{{"ties": {str(dict(ties)).replace(chr(39), chr(34))}}}')
    return str(folder)


def changed(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    return model


def test_a_head_that_is_tied_to_the_embeddings_is_taken_with_them(tmp_path: Path) -> None:
    earlier, model = changed(llama()), llama()
    chained(model, **two({"from": saved(earlier, tmp_path)}, {}))
    assert torch.equal(model.lm_head.weight, earlier.lm_head.weight)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_shared_stages_take_no_weights_of_which_there_are_two(tmp_path: Path) -> None:
    run = saved(bert(), tmp_path)
    with pytest.raises(ModelError, match="here they are one parameter"):
        chained(bert(), **two({"from": run}, {"share": {"with": "base"}}))


def test_shared_stages_take_the_weights_of_shared_ones(tmp_path: Path) -> None:
    earlier, model = changed(bert()), bert()
    shared = two({}, {"share": {"with": "base"}})
    run = saved(earlier, tmp_path, **shared)
    chained(model, **two({"from": run}, {"share": {"with": "base"}}))
    name = "bert.encoder.layer.3.output.dense.weight"
    assert torch.equal(model.get_parameter(name), earlier.get_parameter(name))


def test_blocks_that_repetition_moved_are_not_taken_for_others(tmp_path: Path) -> None:
    run = saved(bert(), tmp_path)
    stages: dict[str, Any] = {
        "low": {"blocks": "embeddings, 0", "repeat": 2},
        "middle": {"blocks": "1:3", "from": run},
        "top": {"blocks": "3:, head"},
    }
    with pytest.raises(ModelError, match=r"it has 4 blocks .* \(here 5\)"):
        chained(bert(), order=list(stages), stages=stages)


def test_a_head_for_other_labels_of_the_same_number_is_left_as_it_is(tmp_path: Path) -> None:
    earlier, model, same = changed(bert()), bert(), bert()
    earlier.config.id2label = {0: "A", 1: "B", 2: "C"}
    same.config.id2label = {0: "A", 1: "B", 2: "C"}
    model.config.id2label = {0: "B", 1: "A", 2: "C"}
    run, own = saved(earlier, tmp_path), model.classifier.weight.clone()
    for one in (model, same):
        chained(one, **two({}, {"from": run}))
    assert torch.equal(model.classifier.weight, own)
    assert torch.equal(same.classifier.weight, earlier.classifier.weight)
    assert torch.equal(model.bert.encoder.layer[3].output.dense.weight, same.bert.encoder.layer[3].output.dense.weight)


@pytest.mark.parametrize("content", ["{", "[]", '{"ties": []}'])
def test_a_damaged_chainft_json_of_the_earlier_run_is_named(tmp_path: Path, content: str) -> None:
    run = saved(bert(), tmp_path)
    (tmp_path / "model" / "chainft.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"chainft\.json is damaged"):
        chained(bert(), **two({"from": run}, {}))
