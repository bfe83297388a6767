"""Optimizers by name: groups, options and their errors, and state that survives a restart bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chainft.config.run import OptimizerConfig
from chainft.errors import CheckpointError, ConfigError
from chainft.train.optimizer import build_optimizer, check_optimizer, optimizer_names
from chainft.train.optimizer_state import pack_optimizer, restore_optimizer

VARIANTS: dict[str, OptimizerConfig] = {
    name: OptimizerConfig(name=name, lr=1e-2, weight_decay=0.0 if name == "rprop" else 0.1)
    for name in optimizer_names()
    if name != "muon"
} | {
    "sgd momentum": OptimizerConfig(name="SGD", lr=1e-2, options={"momentum": 0.9, "nesterov": True}),
    "adamw amsgrad": OptimizerConfig(name="AdamW", lr=1e-2, options={"amsgrad": True}),
    "adamw loop": OptimizerConfig(name="adamw", lr=1e-2, options={"foreach": False, "betas": (0.8, 0.99)}),
    "adamw foreach": OptimizerConfig(name="adamw", lr=1e-2, options={"foreach": True}),
    "rmsprop centered": OptimizerConfig(name="rmsprop", lr=1e-3, options={"centered": True, "momentum": 0.5}),
}


class Tied(nn.Module):
    """An embedding tied to the output, a norm, a bias, and a head that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.dense = nn.Linear(6, 6)
        self.output = nn.Linear(6, 11, bias=False)
        self.output.weight = self.embedding.weight
        self.idle = nn.Linear(6, 2)

    def forward(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.output(torch.tanh(self.dense(self.norm(self.embedding(ids)))))
        return hidden


def fresh_model() -> Tied:
    torch.manual_seed(0)
    return Tied()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        ids = torch.randint(0, 11, (4, 5), generator=torch.Generator().manual_seed(step))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        torch.autograd.backward(nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_restored_training_equals_unbroken_bit_by_bit(variant: str, tmp_path: Path) -> None:
    """fault 20: with tied parameters; fault 24: state of every optimizer."""
    config = VARIANTS[variant]
    model = fresh_model()
    optimizer = build_optimizer(model, config)
    train(model, optimizer, range(3))
    tensors, rest = pack_optimizer(optimizer, model)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "o.safetensors")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text = json.dumps(rest)
    train(model, optimizer, range(3, 6))

    again = fresh_model()
    again.load_state_dict(weights)
    other = build_optimizer(again, config)
    restore_optimizer(other, again, load_file(tmp_path / "o.safetensors"), json.loads(text))
    train(again, other, range(3, 6))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert again.output.weight is again.embedding.weight
    assert _same_state(pack_optimizer(optimizer, model), pack_optimizer(other, again))


def _same_state(left: Any, right: Any) -> bool:
    same = left[0].keys() == right[0].keys() and left[1] == right[1]
    return same and all(
        torch.equal(left[0][name], right[0][name]) and left[0][name].dtype == right[0][name].dtype for name in left[0]
    )


def test_muon_restores_bit_by_bit_on_matrices() -> None:
    config = OptimizerConfig(name="muon", lr=1e-2)

    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11, bias=False))
        return model, build_optimizer(model, config)

    model, optimizer = build()
    train(model, optimizer, range(3))
    again, other = build()
    again.load_state_dict(model.state_dict())
    restore_optimizer(other, again, *_through_json(pack_optimizer(optimizer, model)))
    train(model, optimizer, range(3, 6))
    train(again, other, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def _through_json(packed: tuple[dict[str, Tensor], Any]) -> tuple[dict[str, Tensor], Any]:
    return {name: tensor.clone() for name, tensor in packed[0].items()}, json.loads(json.dumps(packed[1]))


def test_learning_rate_is_never_restored() -> None:
    model = fresh_model()
    optimizer = build_optimizer(model, OptimizerConfig(lr=1e-2))
    train(model, optimizer, range(2))
    other = build_optimizer(model, OptimizerConfig(lr=7e-3, options={"betas": (0.5, 0.6)}))
    restore_optimizer(other, model, *pack_optimizer(optimizer, model))
    assert [(group["lr"], group["betas"]) for group in other.param_groups] == [(7e-3, (0.5, 0.6))] * 2


def test_restored_state_shares_no_memory_with_the_file(tmp_path: Path) -> None:
    model = fresh_model()
    optimizer = build_optimizer(model, OptimizerConfig())
    train(model, optimizer, range(1))
    tensors, rest = pack_optimizer(optimizer, model)
    other = build_optimizer(model, OptimizerConfig())
    restore_optimizer(other, model, tensors, rest)
    assert not {t.data_ptr() for t in pack_optimizer(other, model)[0].values()} & {
        t.data_ptr() for t in tensors.values()
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("class", "it is the state of AdamW, the run uses SGD"),
        ("frozen", "parameters that are not trained here: dense.bias, dense.weight"),
        ("shape", r"embedding.weight had shape \[11, 6\], here it has \[12, 6\]"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_changes_nothing(change: str, reason: str) -> None:
    model = fresh_model()
    optimizer = build_optimizer(model, OptimizerConfig())
    train(model, optimizer, range(1))
    packed = pack_optimizer(optimizer, model)
    again = fresh_model()
    if change == "frozen":
        again.dense.requires_grad_(False)
    if change == "shape":
        again.embedding.weight = again.output.weight = nn.Parameter(torch.zeros(12, 6))
    other = build_optimizer(again, OptimizerConfig(name="sgd" if change == "class" else "adamw"))
    with pytest.raises(CheckpointError, match=reason):
        restore_optimizer(other, again, *packed)
    assert not other.state


def test_norms_biases_and_vectors_are_not_decayed_and_embeddings_are() -> None:
    model = fresh_model()
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.3))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]
    assert decayed == {"embedding.weight", "dense.weight", "idle.weight"}
    assert plain == {"norm.weight", "norm.bias", "dense.bias", "idle.bias"}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_frozen_parameters_stay_out() -> None:
    model = fresh_model()
    model.embedding.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig())
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(model.embedding.weight) not in trained


def test_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter of the model is trainable"):
        build_optimizer(fresh_model().requires_grad_(False), OptimizerConfig())


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adagrad"])
def test_fused_kernel_is_used_on_the_cpu(name: str) -> None:
    assert build_optimizer(fresh_model(), OptimizerConfig(name=name)).param_groups[0]["fused"] is True


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": False}])
def test_chosen_implementation_is_kept(options: dict[str, bool]) -> None:
    group = build_optimizer(fresh_model(), OptimizerConfig(options=options)).param_groups[0]
    assert not group["fused"]
    assert {name: group[name] for name in options} == options


@pytest.mark.parametrize("name", ["adam", "nadam", "radam"])
def test_weight_decay_is_decoupled_where_torch_offers_it(name: str) -> None:
    assert build_optimizer(fresh_model(), OptimizerConfig(name=name)).param_groups[0]["decoupled_weight_decay"]
    coupled = OptimizerConfig(name=name, options={"decoupled_weight_decay": False})
    assert not build_optimizer(fresh_model(), coupled).param_groups[0]["decoupled_weight_decay"]


def test_options_arrive_as_torch_takes_them() -> None:
    config = OptimizerConfig(options={"betas": [0.8, 0.95], "eps": 1})  # type: ignore[dict-item]
    group = build_optimizer(fresh_model(), config).param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1)


@pytest.mark.parametrize(
    ("name", "options", "key", "words"),
    [
        ("adamx", {}, "optimizer.name", "optimizer 'adamx' does not exist; there are: adadelta"),
        ("adamw_torch_fused", {}, "optimizer.name", "did you mean 'adamw'?"),
        ("LBFGS", {}, "optimizer.name", "a closure"),
        ("SparseAdam", {}, "optimizer.name", "sparse gradients only"),
        ("adamw", {"bettas": (0.9, 0.9)}, "optimizer.options.bettas", "did you mean 'betas'?"),
        ("adamw", {"adam_epsilon": 1e-6}, "optimizer.options.adam_epsilon", "did you mean 'eps'?"),
        ("sgd", {"betas": (0.9, 0.9)}, "optimizer.options.betas", "there are: momentum, dampening, nesterov"),
        ("adamw", {"lr": 0.1}, "optimizer.options.lr", "set optimizer.lr=0.1"),
        ("adamw", {"maximize": True}, "optimizer.options.maximize", "higher loss"),
        ("adamw", {"capturable": True}, "optimizer.options.capturable", "CUDA graphs"),
        ("adamw", {"betas": 0.9}, "optimizer.options.betas", "betas=0.9 must be a list of 2 numbers"),
        ("adamw", {"betas": (0.9, 0.9, 0.9)}, "optimizer.options.betas", "a list of 2 numbers"),
        ("adamw", {"eps": True}, "optimizer.options.eps", "must be a number"),
        ("adamw", {"eps": float("inf")}, "optimizer.options.eps", "must be a number"),
        ("adamw", {"amsgrad": 1}, "optimizer.options.amsgrad", "must be true or false"),
        ("adamw", {"fused": 1}, "optimizer.options.fused", "must be true or false"),
        ("muon", {"ns_steps": 2.5}, "optimizer.options.ns_steps", "a whole number"),
        ("muon", {"adjust_lr_fn": 1}, "optimizer.options.adjust_lr_fn", "cannot set a value of type"),
        ("adamw", {"betas": (0.9, 1.5)}, "optimizer.options.betas", "1.5"),
        ("adamw", {"eps": -1.0}, "optimizer.options.eps", "-1.0"),
        ("sgd", {"momentum": -0.5}, "optimizer.options.momentum", "-0.5"),
        ("sgd", {"nesterov": True}, "optimizer.options.nesterov", "momentum"),
        ("lion", {"betas": (0.9, 1.0)}, "optimizer.options.betas", "1.0"),
        ("lion", {"eps": 1e-8}, "optimizer.options.eps", "there are: betas"),
        ("adamw", {"fused": True, "foreach": True}, "optimizer.options.fused", "cannot be"),
    ],
)
def test_wrong_settings_name_key_and_remedy(name: str, options: Any, key: str, words: str) -> None:
    """fault 1, fault 2: unknown keys, wrong types and values out of range."""
    with pytest.raises(ConfigError) as caught:
        check_optimizer(OptimizerConfig(name=name, options=options))
    assert caught.value.problems[0].key == key
    assert words in caught.value.render()


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_optimizer(OptimizerConfig(options={"bettas": 1, "eps": True, "maximize": True}))
    assert len(caught.value.problems) == 3


def test_weight_decay_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match="Rprop has no weight decay"):
        check_optimizer(OptimizerConfig(name="rprop", weight_decay=0.1))


def test_muon_is_refused_for_a_model_with_vectors() -> None:
    with pytest.raises(ConfigError, match="muon only supports 2D parameters") as caught:
        build_optimizer(fresh_model(), OptimizerConfig(name="muon"))
    assert caught.value.problems[0].key == "optimizer.name"


@pytest.mark.parametrize("name", sorted(set(optimizer_names()) - {"rprop"}))
def test_every_optimizer_takes_the_default_settings(name: str) -> None:
    check_optimizer(OptimizerConfig(name=name))
