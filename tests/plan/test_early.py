"""What does not fit between chain and model is found before data and weights are read, in the same words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from chainft.config.compose import compose
from chainft.config.run import RunConfig
from chainft.errors import ConfigError
from chainft.models.load import load_model
from chainft.plan.early import check_fit
from chainft.plan.probe import new_task
from chainft.stages.chain import build_chain
from chainft.train.prepare import prepare

WRONG = {
    "gap": (
        "chain.order=[a,b]",
        "chain.stages.a.blocks='embeddings, 0'",
        "chain.stages.b.blocks='head'",
    ),
    "beyond": ("chain.order=[a]", "chain.stages.a.blocks='embeddings, :9, head'"),
    "too many": ("chain.split=9",),
    "frozen": ("chain.split=2", "chain.stages.stage0.frozen=nothing_like_it"),
    "share": ("chain.split=2", "chain.stages.stage1.share={with: stage0, parameters: nothing_like_it}"),
    "unlike": (
        "chain.order=[a,b]",
        "chain.stages.a.blocks='embeddings'",
        "chain.stages.b={blocks: '0:, head', share: {with: a}}",
    ),
    "no blocks": (
        "chain.order=[a,b]",
        "chain.stages.a.blocks='embeddings, :'",
        "chain.stages.b={blocks: head, dtype: bfloat16, frozen: true}",
    ),
}


def config_of(folder: Path, words: Sequence[str]) -> RunConfig:
    return compose(["task=ner", "data=conll", "data.train=nowhere.conll", f"model={folder}", *words]).config


@pytest.mark.parametrize("kind", WRONG)
def test_it_is_found_before_the_data_and_in_the_words_of_the_real_chain(tiny_encoder: Path, kind: str) -> None:
    config = config_of(tiny_encoder, WRONG[kind])
    with pytest.raises(ConfigError) as early:
        prepare(config, progress=lambda *_: None, poll=lambda: None)
    with pytest.raises(ConfigError) as late:
        build_chain(load_model(config.model, new_task(config, 3), seed=0).model, config)
    assert early.value.problems == late.value.problems


@pytest.fixture
def tied(tiny_decoder: Path, tmp_path: Path) -> list[str]:
    """Words for a decoder whose word embeddings are its head too."""
    for file in tiny_decoder.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    plain = json.loads((tiny_decoder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**plain, "tie_word_embeddings": True}), encoding="utf-8")
    data = ["data=jsonl", "data.train=nowhere.jsonl"]
    return ["task=generate", *data, f"model={tmp_path}", "model.pretrained=false", "chain.split=2"]


def test_parameters_that_overlap_are_found_before_the_data(tied: list[str]) -> None:
    config = compose([*tied, "chain.stages.stage1.frozen='.'"]).config
    with pytest.raises(ConfigError, match="computes with too"):
        prepare(config, progress=lambda *_: None, poll=lambda: None)


def test_too_many_stages_of_an_automatic_cut_are_found(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="2 blocks"):
        check_fit(config_of(tiny_encoder, ["chain.split=auto", "chain.num_stages=3"]))


def test_widths_of_linked_models_that_do_not_meet_are_found(tiny_encoder: Path, tmp_path: Path) -> None:
    from transformers import BertConfig

    config = BertConfig.from_pretrained(tiny_encoder)
    config.hidden_size = 64
    config.save_pretrained(tmp_path)
    for file in tiny_encoder.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    words = [
        "chain=cascade",
        f"chain.stages.second={{model: '{tmp_path}', connector: none}}",
        "model.pretrained=false",
    ]
    with pytest.raises(ConfigError, match="width 64"):
        check_fit(config_of(tiny_encoder, words))


def test_warnings_are_left_to_the_real_chain(tied: list[str], caplog: pytest.LogCaptureFixture) -> None:
    config = compose([*tied, "chain.stages.stage1.lr=0.1"]).config
    check_fit(config)
    assert not caplog.records
    build_chain(load_model(config.model, new_task(config, 2), seed=0).model, config)
    assert "trained at its rates" in caplog.text
