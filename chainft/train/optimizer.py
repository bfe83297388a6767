"""Builds the optimizer that `optimizer.*` describes, with every mistake in it reported as a config error.

Weight decay is decoupled from the gradient (Loshchilov & Hutter 2019, arXiv:1711.05101) wherever torch offers that:
adamw, adafactor, lion, muon, and adam, nadam and radam, which get `decoupled_weight_decay=True` unless the options say
otherwise. sgd, rmsprop, adagrad, adadelta, adamax and asgd know only the coupled form (L2: added to the gradient).
Saving and restoring its state is in `optimizer_state.py`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from chainft.config.chain import ChainConfig
from chainft.config.run import OptimizerConfig
from chainft.errors import ConfigError, Problem, did_you_mean
from chainft.models.task_modules import own_rates
from chainft.stages.chain import Chain
from chainft.stages.policy import Rate
from chainft.train.lion import Lion

Value = bool | int | float | Sequence[float]

_FUSED = {
    "adamw": ("cpu", "cuda", "mps"),
    "adam": ("cpu", "cuda", "mps"),
    "sgd": ("cpu", "cuda", "mps"),
    "adagrad": ("cpu",),
}
"""Where torch 2.13 has a fused kernel, which does the whole update in one pass over memory."""
_FUSED_SHARDED = ("adamw", "adam")
"""Of these, torch 2.13 has fused kernels for sharded parameters too."""
_REFUSED = {
    "lbfgs": "it evaluates the loss several times an update (a closure), which the training loop does not do",
    "sparseadam": "it takes sparse gradients only, and transformers have dense ones",
}
_UNUSABLE = {
    "maximize": "it would train towards a higher loss",
    "differentiable": "nothing differentiates through the update here",
    "capturable": "it is for CUDA graphs, which chainft does not record",
}
_OTHER_SPELLINGS = {
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "beta1": "betas",
    "beta2": "betas",
    "adam_epsilon": "eps",
    "epsilon": "eps",
    "rms_alpha": "alpha",
}
_OWN_KEYS = {"lr": "optimizer.lr", "weight_decay": "optimizer.weight_decay", "learning_rate": "optimizer.lr"}


StandIns = Mapping[int, nn.Parameter]
"""Id of a parameter -> another that is trained in its place."""


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, chain: Chain | None = None, stand_ins: StandIns | None = None
) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters of `model`: a group with weight decay and one without for each rate.

    With a `chain`, its stages may have rates of their own, kept as `peak_lr` in their groups, and parameters that are
    trained later are in it from the start: without a gradient they are left alone.

    Raises ConfigError for an unknown name or option, a value out of range, or a model that it cannot train.
    """
    groups = parameter_groups(model, config, chain, stand_ins or {})
    if not groups and chain is not None and chain.is_cut:
        groups = [{"params": [nn.Parameter(torch.zeros(0))], "weight_decay": 0.0}]  # Torch takes none without.
    if not groups:
        raise ConfigError("no parameter of the model is trainable", slug="nothing-to-train", key="model")
    return _construct(groups, config)


def check_optimizer(config: OptimizerConfig, chain: ChainConfig | None = None) -> None:
    """Raise what `build_optimizer` would raise about the config, before there is a model."""
    kind = _find_class(config.name)
    for name, stage in chain.stages.items() if chain else ():
        if stage.weight_decay and "weight_decay" not in inspect.signature(kind).parameters:
            raise ConfigError(
                f"chain.stages.{name}.weight_decay={stage.weight_decay} has no effect: {kind.__name__} has no weight decay",
                slug="no-effect",
                key=f"chain.stages.{name}.weight_decay",
                help="leave it away, or choose another optimizer",
            )
    _construct([{"params": [nn.Parameter(torch.zeros(1, 1))], "weight_decay": config.weight_decay}], config)


def parameter_groups(
    model: nn.Module, config: OptimizerConfig, chain: Chain | None = None, stand_ins: StandIns | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters, each once, by rate: first those with weight decay, then norms, biases and vectors without."""
    vectors = {*_undecayed(model), *own_rates(model)}
    rates, own = chain.rates() if chain else {}, own_rates(model)
    groups: dict[tuple[Rate, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if chain.trains(parameter) if chain else parameter.requires_grad:
            rate = rates.get(id(parameter), Rate())
            if (lr := own.get(id(parameter))) is not None:
                rate = replace(rate, lr=lr)
            trained = (stand_ins or {}).get(id(parameter), parameter)
            groups.setdefault((rate, id(parameter) in vectors), []).append(trained)
    ordered = sorted(groups.items(), key=lambda item: item[0][1])
    return [_group(parameters, rate, is_vector, config) for (rate, is_vector), parameters in ordered]


def _group(parameters: list[nn.Parameter], rate: Rate, is_vector: bool, config: OptimizerConfig) -> dict[str, Any]:
    decay = config.weight_decay if rate.weight_decay is None else rate.weight_decay
    return {
        "params": parameters,
        "weight_decay": 0.0 if is_vector else decay,
        "peak_lr": config.lr if rate.lr is None else rate.lr,
    }


def optimizer_names() -> tuple[str, ...]:
    """Every name that `optimizer.name` may have, in lower case."""
    return tuple(sorted(name for name in _classes() if name not in _REFUSED))


def _undecayed(model: nn.Module) -> Iterator[int]:
    """Ids of the parameters of norms, of biases, and of everything with fewer than two dimensions."""
    for module in model.modules():
        is_norm = "norm" in type(module).__name__.casefold()
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm or parameter.ndim < 2 or name == "bias":
                yield id(parameter)


def _construct(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    kind = _find_class(config.name)
    options = _options(kind, config)
    if "fused" not in options and "foreach" not in options and _has_fused(kind, groups):
        options["fused"] = True
    try:
        optimizer: torch.optim.Optimizer = kind(groups, lr=config.lr, **options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{kind.__name__} refuses its settings: {str(error)[0].lower()}{str(error)[1:]}",
            slug="optimizer-value",
            key=_blamed(str(error), config),
        ) from error
    return optimizer


def _find_class(name: str) -> type[Any]:
    folded = name.strip().casefold()
    classes = _classes()
    if folded in _REFUSED:
        raise ConfigError(
            f"optimizer {name!r} cannot be used: {_REFUSED[folded]}", slug="unusable-optimizer", key="optimizer.name"
        )
    if folded not in classes:
        near = f"did you mean {folded.split('_')[0]!r}?" if folded.split("_")[0] in classes else None
        raise ConfigError(
            f"optimizer {name!r} does not exist; there are: {', '.join(optimizer_names())}",
            slug="unknown-optimizer",
            key="optimizer.name",
            help=near or did_you_mean(name, optimizer_names()),
        )
    return classes[folded]


def _classes() -> dict[str, type[torch.optim.Optimizer]]:
    own = vars(torch.optim).items()
    found = {name.casefold(): value for name, value in own if isinstance(value, type) and value.__module__ != __name__}
    optimizers = {name: kind for name, kind in found.items() if issubclass(kind, torch.optim.Optimizer)}
    del optimizers["optimizer"]
    return optimizers | {"lion": Lion}


def _options(kind: type[torch.optim.Optimizer], config: OptimizerConfig) -> dict[str, Any]:
    """The checked keyword arguments. Raises ConfigError with everything that is wrong in them."""
    parameters = dict(list(inspect.signature(kind).parameters.items())[1:])
    problems = list(_option_problems(parameters, config.options))
    if "weight_decay" not in parameters and config.weight_decay:
        message = f"optimizer.weight_decay={config.weight_decay} has no effect: {kind.__name__} has no weight decay"
        problems.append(
            Problem("no-effect", message, key="optimizer.weight_decay", help="set optimizer.weight_decay=0")
        )
    if problems:
        raise ConfigError.of(problems)
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, Sequence) else value for name, value in config.options.items()
    }
    if "decoupled_weight_decay" in parameters:
        chosen.setdefault("decoupled_weight_decay", True)
    return chosen


def _option_problems(parameters: Mapping[str, inspect.Parameter], options: Mapping[str, Value]) -> Iterator[Problem]:
    usable = [name for name in parameters if name not in _UNUSABLE and name not in _OWN_KEYS]
    for name, value in options.items():
        key = f"optimizer.options.{name}"
        if name in _OWN_KEYS:
            own = _OWN_KEYS[name]
            yield Problem("duplicate-setting", f"{name!r} is not an option", key=key, help=f"set {own}={value}")
        elif name in _UNUSABLE and name in parameters:
            yield Problem("unusable-option", f"{name}={value} cannot be used: {_UNUSABLE[name]}", key=key)
        elif name not in parameters:
            other = _OTHER_SPELLINGS.get(name)
            near = f"did you mean {other!r}?" if other in usable else did_you_mean(name, usable)
            there = f"there is no option {name!r}; there are: {', '.join(usable)}"
            yield Problem("unknown-option", there, key=key, help=near)
        elif wrong := _wrong_type(parameters[name], value):
            yield Problem("wrong-type", f"{name}={value!r} must be {wrong}", key=key)


def _wrong_type(parameter: inspect.Parameter, value: Value) -> str | None:
    """What the value must be, judged by the default and annotation of the argument; None where it is right."""
    default, annotation = parameter.default, inspect.formatannotation(parameter.annotation)
    numbers = list(value) if isinstance(value, Sequence) else [value]
    if isinstance(default, tuple):
        is_right = isinstance(value, Sequence) and len(value) == len(default) and not any(map(_is_bad, numbers))
        return None if is_right else f"a list of {len(default)} numbers"
    if isinstance(default, bool) or (default is None and "bool" in annotation):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        is_right = not isinstance(value, Sequence) and not _is_bad(value)
        if is_right and annotation == "int" and not isinstance(value, int):
            return "a whole number"
        return None if is_right else "a number"
    return f"left out: chainft cannot set a value of type {annotation}"


def _is_bad(number: object) -> bool:
    return isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number)


def _has_fused(kind: type[torch.optim.Optimizer], groups: Iterable[Mapping[str, Any]]) -> bool:
    name = kind.__name__.casefold()
    devices = _FUSED.get(name, ())
    parameters = [parameter for group in groups for parameter in group["params"]]
    if name not in _FUSED_SHARDED and any(isinstance(parameter, DTensor) for parameter in parameters):
        return False
    return all(p.device.type in devices and p.is_floating_point() for p in parameters)


def _blamed(message: str, config: OptimizerConfig) -> str:
    """The key whose value torch's message is about, as far as its words show."""
    words = message.casefold().replace("weight decay", "weight_decay").replace("epsilon", "eps")
    if "only supports" in words:
        return "optimizer.name"
    for name in config.options:
        if name.removesuffix("s") in words:
            return f"optimizer.options.{name}"
    if "weight_decay" in words:
        return "optimizer.weight_decay"
    return "optimizer.lr" if "learning rate" in words else "optimizer.options" if config.options else "optimizer.name"
