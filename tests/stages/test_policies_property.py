"""Any cut with any policies and ties: two updates change exactly what is to be trained, and a folder gives it back."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BertForTokenClassification

from chainft.config.run import OptimizerConfig
from chainft.stages.chain import Chain, build_chain
from chainft.stages.sharing import retie, untied_state
from chainft.train.optimizer import build_optimizer
from tests.stages.test_chain import bert, configured, loss

NUM_BLOCKS = 4
POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"frozen": True},
    {"frozen": True, "eval_mode": True},
    {"frozen": "LayerNorm"},
    {"frozen": True, "unfreeze_at": 0.5},
    {"lr": 1e-2},
    {"weight_decay": 0.0, "dropout": 0.0},
    {"lora": {"r": 2}},
    {"gradient_checkpointing": True},
)
PATTERNS = (None, ".*attention.*", r".*LayerNorm\.(weight|bias)")


@st.composite
def chains(draw: st.DrawFn) -> dict[str, Any]:
    """Stages with policies; some share with an earlier stage of as many blocks, which then has the same policy."""
    cuts = [0, *sorted(draw(st.sets(st.integers(1, NUM_BLOCKS - 1)))), NUM_BLOCKS]
    stages: dict[str, dict[str, Any]] = {}
    for number, (start, stop) in enumerate(pairwise(cuts)):
        stages[f"s{number}"] = {"blocks": f"{start}:{stop}", **draw(st.sampled_from(POLICIES))}
        like = [f"s{i}" for i in range(number) if cuts[i + 1] - cuts[i] == stop - start]
        like = [name for name in like if "share" not in stages[name]]
        if like and draw(st.booleans()):
            other = draw(st.sampled_from(like))
            share = {"with": other, "parameters": draw(st.sampled_from(PATTERNS))}
            policy = {key: value for key, value in stages[other].items() if key != "blocks"}
            stages[f"s{number}"] = {"blocks": f"{start}:{stop}", **policy, "share": share}
    stages["s0"]["blocks"] = f"embeddings, {stages['s0']['blocks']}"
    stages["head"] = {"blocks": "head"}  # Always trained: some stage must be.
    return {"order": list(stages), "stages": stages}


def two_updates(chain: Chain, *, total_steps: int) -> None:
    optimizer = build_optimizer(chain.model, OptimizerConfig(lr=1e-2), chain)
    conduct = chain.conduct()
    for step in range(2):
        chain.model.train()
        conduct.begin(step, total_steps)
        loss(chain.model).backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"]
        optimizer.step()
        optimizer.zero_grad()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(chains(), st.sampled_from([2, 8]))
def test_two_updates_change_what_is_trained_and_nothing_else(given: dict[str, Any], total_steps: int) -> None:
    """With 2 steps in all, what is unfrozen at half of them is trained in the second; with 8, in neither."""
    model = bert(NUM_BLOCKS)
    chain = build_chain(model, configured(given))
    chain.set_recomputation()
    named = dict(model.named_parameters(remove_duplicate=False))
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    late = {name for name, parameter in named.items() if id(parameter) in chain.later}
    trained = {name for name, parameter in named.items() if parameter.requires_grad} | (
        late if total_steps == 2 else set()
    )
    for part in chain.parts:
        if part.config.frozen is True and part.config.share is None:
            assert not {name for name in part.parameters if name in trained} - late
    two_updates(chain, total_steps=total_steps)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert torch.equal(parameter, before[name]) == (name not in trained), name
    _check_saved(chain)


def _check_saved(chain: Chain) -> None:
    """Ties are one object, before and after the way through a folder; and what is computed is the same."""
    chain.merge()
    model = chain.model.eval()
    for name, to in chain.ties.items():
        assert model.get_parameter(name) is model.get_parameter(to)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, state_dict=untied_state(model, chain.ties))
        again, facts = BertForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert not facts["missing_keys"] and not facts["unexpected_keys"]
    for name, to in chain.ties.items():
        assert torch.equal(again.get_parameter(name), again.get_parameter(to))
    retie(again, chain.ties, where="folder")
    for name, to in chain.ties.items():
        assert again.get_parameter(name) is again.get_parameter(to)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert torch.equal(loss(again.eval()), loss(model))
