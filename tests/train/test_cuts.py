"""The cuts of `chain.split=auto` are kept, and a file of them that was changed is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForTokenClassification

from chainft.config.chain import ChainConfig
from chainft.errors import CheckpointError
from chainft.train.cuts import FILE, chain_cuts
from chainft.train.prepare import shared_cuts
from chainft.world import World
from tests.train.gloo import Ranks

CHAIN = ChainConfig(split="auto", num_stages=2, balance="memory")
UNUSED: Any = None


@pytest.fixture
def model() -> BertForTokenClassification:
    return BertForTokenClassification(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=8)
    )


def test_cuts_are_made_once_and_kept(model: BertForTokenClassification, tmp_path: Path) -> None:
    assert chain_cuts(CHAIN, model, UNUSED, UNUSED, tmp_path) == [0, 2, 4]
    (tmp_path / FILE).write_text(json.dumps({"cuts": [0, 1, 4]}), encoding="utf-8")
    assert chain_cuts(CHAIN, model, UNUSED, UNUSED, tmp_path) == [0, 1, 4]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cuts": [0, 4]}', '{"cuts": [0, 5, 4]}', '{"cuts": ["a", 1, 4]}'])
def test_a_damaged_file_is_named(model: BertForTokenClassification, tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"chain\.json is damaged"):
        chain_cuts(CHAIN, model, UNUSED, UNUSED, tmp_path)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    several = Ranks(2)
    yield several
    several.close()


def _cuts_by_own_times(rank: int) -> list[int] | None:
    """What `prepare` gives each process, the blocks of which seem slow to it in another order."""
    world = World(rank, 2, store=torch.distributed.distributed_c10d._get_default_store())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chainft.train.prepare.chain_cuts", lambda *_: [0, 1 + rank, 4])
        return shared_cuts(UNUSED, UNUSED, UNUSED, UNUSED, None, world=world)


def test_all_processes_have_the_cuts_that_the_main_one_measured(ranks: Ranks) -> None:
    assert ranks.run(_cuts_by_own_times) == [[0, 1, 4], [0, 1, 4]]
