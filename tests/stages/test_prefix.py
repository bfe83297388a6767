"""The frozen beginning of a model: how far it goes, and that the rest computes the same from kept states."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from chainft.stages.gates import Gates, Payload, probe_inputs
from chainft.stages.prefix import Obstacle, Prefix, find_prefix, prefix_digest, prefix_states
from chainft.stages.prologue import find_idle
from tests.stages.architectures import CASES, batch, tiny_model
from tests.stages.test_chain import chained
from tests.stages.test_modes import dropping

STILL = {"frozen": True, "eval_mode": True}
DROPPING = [f"dropping {case}" for case in ("bert:tokens", "gpt2:causal", "bart:seq2seq", "t5:seq2seq")]
"""With dropout everywhere, which the rest keeps."""


def found(model: PreTrainedModel, **chain: Any) -> Prefix | Obstacle:
    return find_prefix(chained(model, **chain), Gates(model), pad_token_id=0)


def prefix_of(model: PreTrainedModel, **chain: Any) -> Prefix:
    prefix = found(model, **chain)
    assert isinstance(prefix, Prefix), prefix
    return prefix


def inputs_of(case: str) -> dict[str, Tensor]:
    """A batch whose padding counts for nothing."""
    inputs = batch(case)
    if case.endswith(":tokens"):
        inputs["labels"] = inputs["labels"].masked_fill(inputs["attention_mask"] == 0, -100)
    return inputs


def kept(gates: Gates, prefix: Prefix, inputs: dict[str, Tensor]) -> Tensor:
    """(B, L, D) states of each row computed by itself, without padding, then padded with zeros."""
    rows = []
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        alone = {name: inputs[name][row : row + 1, :length] for name in ("input_ids", "attention_mask")}
        decoder = {"decoder_input_ids": alone["input_ids"]} if gates.model.config.is_encoder_decoder else {}
        rows.append(prefix_states(gates, prefix.span, {**alone, **decoder})[0].clone())
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


SEES_PADDING = ("convbert:tokens", "fnet:classify", "mobilebert:tokens", "nystromformer:classify")


class Lent:
    """A model whose forward pass begins with kept states, once its embeddings are left out."""

    def __init__(self, model: PreTrainedModel, prefix: Prefix, inputs: dict[str, Tensor]) -> None:
        self.gates = Gates(model)
        self.rest = prefix.rest
        self.ends_encoder = len(self.gates.blocks.stacks) > 1 and prefix.span.stop == self.gates.blocks.stacks[0].size
        self.states = kept(self.gates, prefix, inputs)
        probe = prefix_states(self.gates, prefix.span, probe_inputs(model)).clone()
        self.idle = find_idle(self.gates, prefix.rest, self._payload(probe))

    def _payload(self, states: Tensor) -> Payload:
        return Payload(None, states) if self.ends_encoder else Payload(states)

    def enter(self, stack: ExitStack) -> None:
        for one in self.idle:
            stack.enter_context(one.left_out())
        stack.enter_context(self.gates.beginning_with(self.rest, self._payload(self.states)))


def loss_and_gradient(
    model: PreTrainedModel, inputs: dict[str, Tensor], enter: Callable[[ExitStack], None]
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    torch.manual_seed(0)
    with ExitStack() as stack:
        enter(stack)
        loss = model(**inputs).loss
    loss.backward()
    return float(loss.detach()), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


QUICK = (
    "bert:tokens",
    "albert:classify",
    "electra:tokens",
    "roberta:tokens",
    "gpt2:causal",
    "llama:causal",
    "t5:seq2seq",
)


@pytest.mark.parametrize(
    "case",
    [
        *(
            pytest.param(one, marks=() if one in QUICK else pytest.mark.slow)
            for one in CASES
            if one not in SEES_PADDING
        ),
        *DROPPING,
    ],
)
def test_the_rest_computes_from_kept_states_what_the_whole_computes(case: str) -> None:
    """Loss and gradients, dropout of the rest included; of an encoder-decoder the prefix is the encoder."""
    _compare(case, split=2)


@pytest.mark.parametrize("case", ["dropping bart:seq2seq", "t5:seq2seq"])
def test_a_prefix_may_end_inside_an_encoder(case: str) -> None:
    assert _compare(case, split=3).blocks == "embeddings, encoder.0:2"


def _compare(case: str, *, split: int) -> Prefix:
    model = dropping(case.removeprefix("dropping ")) if case.startswith("dropping") else tiny_model(case)
    chain = chained(model, split=split, stages={"stage0": STILL})
    prefix = find_prefix(chain, Gates(model), pad_token_id=0)
    assert isinstance(prefix, Prefix), prefix
    inputs = inputs_of(case.removeprefix("dropping "))
    lent = Lent(model, prefix, inputs)
    model.train()
    chain.conduct().begin(0, 1)
    whole, gradient = loss_and_gradient(model, inputs, lambda stack: None)
    found, lent_gradient = loss_and_gradient(model, inputs, lent.enter)
    assert found == pytest.approx(whole, rel=1e-6, abs=1e-6)
    assert gradient.keys() == lent_gradient.keys()
    for name, expected in gradient.items():
        torch.testing.assert_close(lent_gradient[name], expected, rtol=1e-4, atol=1e-6)
    return prefix


@pytest.mark.parametrize("case", SEES_PADDING)
def test_states_that_depend_on_padding_are_not_kept(case: str) -> None:
    obstacle = found(tiny_model(case), split=2, stages={"stage0": STILL})
    assert isinstance(obstacle, Obstacle) and "padded" in obstacle.because


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("bert:tokens", ["BertEmbeddings"]),
        ("llama:causal", ["Embedding"]),
        ("gpt2:causal", ["Embedding", "Embedding"]),
        ("t5:seq2seq", ["Embedding"]),  # The encoder's; the decoder has a module of its own with the same weight.
    ],
)
def test_embeddings_are_left_out(case: str, names: list[str]) -> None:
    model = tiny_model(case)
    prefix = prefix_of(model, split=2, stages={"stage0": STILL})
    lent = Lent(model, prefix, inputs_of(case))
    assert [type(one.module).__name__ for one in lent.idle] == names
    calls: list[str] = []
    for one in lent.idle:
        for child in one.module.children():
            child.register_forward_hook(lambda *_: calls.append("called"))
    loss_and_gradient(model, inputs_of(case), lent.enter)
    assert calls == []
    assert all("forward" not in vars(one.module) for one in lent.idle)


def test_it_goes_as_far_as_stages_are_frozen_and_at_most_to_the_end_of_an_encoder() -> None:
    assert prefix_of(tiny_model("bert:tokens"), split=4, stages={"stage0": STILL, "stage1": STILL}).blocks == (
        "embeddings, 0:2"
    )
    assert prefix_of(tiny_model("bert:tokens"), split=2, stages={"stage0": STILL, "stage1": {"lr": 1}}).stages == (
        "stage0",
    )
    frozen = {"stage0": STILL, "stage1": STILL}
    assert prefix_of(tiny_model("bart:seq2seq"), split=3, stages=frozen).blocks == "embeddings, encoder.0:3"
    head = {
        "order": ["body", "head"],
        "stages": {"body": {"blocks": "embeddings, :", **STILL}, "head": {"blocks": "head"}},
    }
    assert prefix_of(tiny_model("bert:tokens"), **head).blocks == "embeddings, 0:4"


@pytest.mark.parametrize(
    ("case", "chain", "because", "remedy"),
    [
        ("bert:tokens", {"split": 2, "stages": {"stage0": {"frozen": "layer.0"}}}, "trained from the start", "frozen=true"),
        (
            "bert:tokens",
            {"split": 2, "stages": {"stage0": {"frozen": True, "unfreeze_at": 0.5}}},
            "from 0.5 of the training",
            "frozen=true",
        ),
        (
            "dropping bert:tokens",
            {"split": 2, "stages": {"stage0": {"frozen": True}}},
            "'stage0' has dropout",
            "chain.stages.stage0.eval_mode=true",
        ),
        (
            "bert:tokens",
            {"order": ["a", "b"], "stages": {"a": {"blocks": "embeddings", **STILL}, "b": {"blocks": ":, head"}}},
            "'b' is trained",
            "frozen=true",
        ),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_is_named(case: str, chain: dict[str, Any], because: str, remedy: str) -> None:
    model = dropping(case.removeprefix("dropping ")) if case.startswith("dropping") else tiny_model(case)
    obstacle = found(model, **chain)
    assert isinstance(obstacle, Obstacle)
    assert because in obstacle.because and remedy in obstacle.remedy


def test_a_parameter_that_a_later_stage_trains_stands_in_the_way() -> None:
    """As one does whose parameters are shared."""
    model = tiny_model("llama:causal")
    chain = chained(model, split=2, stages={"stage0": STILL})
    shared = next(name for name, one in model.named_parameters() if "layers.0" in name)
    chain.model.get_parameter(shared).requires_grad_(True)
    obstacle = find_prefix(chain, Gates(model), pad_token_id=0)
    assert isinstance(obstacle, Obstacle) and shared in obstacle.because


def test_blocks_that_are_left_out_at_random_stand_in_the_way() -> None:
    model = tiny_model("bart:seq2seq")
    chain = chained(model, split=2, stages={"stage0": STILL})
    model.config.encoder_layerdrop = 0.1
    obstacle = find_prefix(chain, Gates(model), pad_token_id=0)
    assert isinstance(obstacle, Obstacle) and "encoder_layerdrop" in obstacle.because + obstacle.remedy


def digest(case: str, change: Callable[[PreTrainedModel], object] = lambda model: None, split: int = 2) -> str:
    model = tiny_model(case)
    change(model)
    return prefix_digest(Gates(model), prefix_of(model, split=split, stages={"stage0": STILL}))


def test_the_digest_is_that_of_weights_and_architecture_and_not_of_the_head() -> None:
    def add(name: str) -> Callable[[PreTrainedModel], object]:
        return lambda model: model.get_parameter(name).data.add_(1)

    same = digest("bert:tokens")
    assert digest("bert:tokens", add("classifier.weight")) == same
    assert digest("bert:tokens", add("bert.encoder.layer.3.output.dense.weight")) == same
    assert digest("bert:tokens", lambda model: setattr(model.config, "id2label", {0: "a"})) == same
    others = {
        digest("bert:tokens", add("bert.encoder.layer.1.output.dense.weight")),
        digest("bert:tokens", add("bert.embeddings.position_embeddings.weight")),
        digest("bert:tokens", lambda model: setattr(model.config, "layer_norm_eps", 1e-3)),
        digest("bert:tokens", lambda model: setattr(model.config, "_attn_implementation", "eager")),
        digest("bert:tokens", split=4),
        same,
    }
    assert len(others) == 6


def test_models_with_other_heads_have_one_digest() -> None:
    tagger, classifier = tiny_model("bert:tokens"), tiny_model("bert:classify")
    classifier.load_state_dict(tagger.state_dict(), strict=False)
    one, other = (
        prefix_digest(Gates(model), prefix_of(model, split=2, stages={"stage0": STILL}))
        for model in (tagger, classifier)
    )
    assert one == other
