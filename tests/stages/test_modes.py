"""Dropout, evaluation mode and recomputation of stages reach all of a stage and nothing else, in many architectures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from chainft.errors import ConfigError
from chainft.stages.gates import without_cache
from chainft.stages.modes import KeptModes, evaluating, training
from tests.stages.architectures import HEADS, batch, tiny_config, tiny_model
from tests.stages.test_chain import chained

DROPS = ["bert:tokens", "deberta-v2:tokens", "gpt2:causal", "falcon:causal", "starcoder2:causal", "bart:seq2seq"]


def dropping(case: str) -> PreTrainedModel:
    """A tiny model in training mode whose every dropout is 0.3."""
    kind, head = case.split(":")
    config = tiny_config(kind)
    for name, value in list(vars(config).items()):
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.3)
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, HEADS[head]).from_config(config)
    return model.train()


def logits(model: PreTrainedModel, case: str) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        found: torch.Tensor = model(**batch(case), **without_cache(model)).logits
    return found


@pytest.mark.parametrize("case", [*DROPS, "t5:seq2seq"])
def test_dropout_of_a_stage_reaches_every_place_of_the_architecture(case: str) -> None:
    model = dropping(case)
    plain = logits(model.eval(), case)
    assert not torch.equal(logits(model.train(), case), plain)
    chained(model, split=1, stages={"stage0": {"dropout": 0.0}})
    assert torch.equal(logits(model.train(), case), plain)


@pytest.mark.parametrize("case", DROPS)
def test_a_stage_in_evaluation_mode_hands_on_what_it_hands_on_in_evaluation(case: str) -> None:
    model = dropping(case)
    chain = chained(model, split=2, stages={"stage0": {"frozen": True, "eval_mode": True}})
    entered: list[Any] = []
    first = model.get_submodule(chain.parts[1].blocks[0])
    first.register_forward_pre_hook(
        lambda _, args, kwargs: entered.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    if (
        case == "bart:seq2seq"
    ):  # The border is that of encoder and decoder: dropout on the decoder's embeddings goes on.
        encoder = model.get_submodule("model.encoder")
        encoder.register_forward_hook(lambda *args: entered.append(args[2][0]))
        first._forward_pre_hooks.clear()
    for is_training in (True, False):
        model.train(is_training)
        if is_training:
            chain.conduct().begin(0, 4)
        logits(model, case)
    assert torch.equal(entered[0], entered[1])
    assert first.training is False


def test_dropout_of_a_stage_without_any_is_refused() -> None:
    stages = {"rest": {"blocks": "embeddings, :"}, "head": {"blocks": "head", "dropout": 0.1}}
    with pytest.raises(ConfigError, match="no dropout in this stage"):
        chained(tiny_model("llama:causal"), order=list(stages), stages=stages)


@pytest.mark.parametrize("case", ["gpt2:causal", "llama:causal", "t5:seq2seq", "m2m_100:seq2seq"])
def test_a_stage_that_recomputes_changes_no_gradient_of_any_architecture(case: str) -> None:
    plain, model = tiny_model(case).train(), tiny_model(case).train()
    chained(model, split=2, stages={"stage0": {"gradient_checkpointing": True}}).set_recomputation()
    plain(**batch(case), **without_cache(plain)).loss.backward()
    model(**batch(case)).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        assert one.grad is None or torch.equal(one.grad, other.grad), name


def test_modes_of_training_are_restored_where_something_changed_them() -> None:
    model = tiny_model("bert:tokens")
    settled: list[bool] = []

    def settle() -> None:
        model.base_model.train(False)
        settled.append(True)

    modes = KeptModes(model, settle)
    for change in (lambda: None, lambda: model.train(), lambda: model.classifier.train(False)):
        change()
        modes.restore()
        assert model.training and model.classifier.training and not model.base_model.encoder.training
    with evaluating(model):
        pass
    modes.restore()
    assert len(settled) == 3  # At first, and after each change: not where all was as it should be.


class Merging(nn.Module):
    """Two factors that are one matrix in evaluation, as modules of LoRA and the like have it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)])
        self.merged: torch.Tensor | None = None

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        self.merged = None if mode else (self.parts[1].weight @ self.parts[0].weight).detach()
        return self


def test_modules_that_do_more_than_note_their_mode_hear_of_both() -> None:
    model = nn.Sequential(Merging(), nn.Sequential(Merging(), nn.Dropout()))
    model.train()
    model[1].train(False)
    modes = [module.training for module in model.modules()]
    with evaluating(model):
        assert model[0].merged is not None and not model[0].training
    assert model[0].merged is None and model[1][0].merged is not None
    assert modes == [module.training for module in model.modules()]
    with training(model):
        assert model[1][0].merged is None
    assert model[1][0].merged is not None
    assert modes == [module.training for module in model.modules()]


def test_a_module_under_two_parents_keeps_its_mode() -> None:
    shared = nn.Dropout()
    model = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared, nn.Linear(2, 2)))
    model.train()
    model[1].train(False)
    shared.train()
    modes = [module.training for module in model.modules()]
    with evaluating(model):
        pass
    assert modes == [module.training for module in model.modules()]
