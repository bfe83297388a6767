"""The Hugging Face configs of linked models: of the whole, that is of each stage and how they hang together, and of a
stage that is no model but a module of a plug-in.

Importing this file lets `AutoConfig` read such configs; `chainft/auto_classes.py` says when that happens. It is
imported in the middle of transformers' own start, so it may import nothing else than what stands here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from chainft.auto_classes import LINKED, STAGE

_NOT_KEPT = ("_name_or_path", "transformers_version", "architectures", "auto_map")
"""What a stage's config has about the folder that it came from."""


@dataclass(frozen=True)
class Link:
    """One stage: its model, and what it reads from the stages before it."""

    model: Mapping[str, Any]
    """The Hugging Face config of its model as plain data, `model_type` included."""
    width_in: int
    """Width of the hidden state that block 0 receives."""
    width_out: int
    """Width of the hidden state that the body gives out."""
    sources: tuple[str, ...] = ()
    """The stages whose outputs it receives; empty for the first stage."""
    is_mix: bool = False
    """The sources are mixed with learned weights (also where there is only one, which is then scaled)."""
    connected: tuple[str, ...] = ()
    """Those of the sources that go through a linear map."""
    residual: bool = False
    """What is received is added to the stage's own embeddings."""
    connector: Mapping[str, Any] | None = None
    """Settings of the plug-in that makes these maps; None: they are linear."""
    auxiliary: float | None = None
    """Weight of the loss of its own head; None: it has no head, unless it is the last stage."""

    def architecture(self) -> PreTrainedConfig:
        """The config of the stage's model."""
        plain = dict(self.model)
        found: PreTrainedConfig = AutoConfig.for_model(plain.pop("model_type"), **plain)
        return found


class StageModelConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The config of a stage that is a module of a plug-in, as transformers has one of each architecture."""

    model_type = STAGE

    def __init__(
        self,
        kind: dict[str, Any] | None = None,
        width_in: int = 1,
        hidden_size: int = 1,
        vocab_size: int = 1,
        **kwargs: Any,
    ) -> None:
        importlib.import_module("chainft.stages.links")
        self.kind = dict(kind or {})
        """Settings of the plug-in, its `name` among them."""
        self.width_in = width_in
        """Width of the hidden states that come in."""
        self.hidden_size = hidden_size
        """Width of those that it gives out."""
        self.vocab_size = vocab_size
        """Of the models before it, by whose tokens it is tried."""
        super().__init__(**kwargs)


class LinkedConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # transformers' __init_subclass__
    """What `config.json` holds of a linked chain. Use `of` to make one; transformers makes it from plain data."""

    model_type = LINKED

    def __init__(
        self,
        auto_class: str = "AutoModelForTokenClassification",
        order: list[str] | None = None,
        stages: dict[str, Any] | None = None,
        ties: dict[str, str] | None = None,
        exit_confidence: float | None = None,
        **kwargs: Any,
    ) -> None:
        importlib.import_module("chainft.stages.links")  # Registers the model classes before anybody looks for them.
        self.auto_class = auto_class
        self.order = list(order or ())
        self.stages = dict(stages or {})
        """Stage -> a `Link` as plain data."""
        self.ties = dict(ties or {})
        """Parameter name -> name of the parameter that it is, in another stage."""
        self.exit_confidence = exit_confidence
        kwargs["tie_word_embeddings"] = True  # transformers ties nothing without it, `ties` neither.
        super().__init__(**kwargs)

    @classmethod
    def of(
        cls, links: Mapping[str, Link], *, auto_class: str, exit_confidence: float | None, **options: Any
    ) -> LinkedConfig:
        """The config of these stages, in their order; `options` are entries that the head needs, such as `id2label`."""
        architectures = [link.architecture() for link in links.values()]
        smallest = {
            name: min(sizes)
            for name in ("vocab_size", "max_position_embeddings")
            if (sizes := [size for one in architectures if (size := getattr(one, name, None))])
        }
        return cls(
            auto_class=auto_class,
            order=list(links),
            stages={name: asdict(link) for name, link in links.items()},
            exit_confidence=exit_confidence,
            hidden_size=links[list(links)[-1]].width_out,
            **smallest,
            **options,
        )

    def links(self) -> dict[str, Link]:
        """The stages in the order in which they compute."""
        return {name: _link(self.stages[name]) for name in self.order}


def plain_config(architecture: PreTrainedConfig) -> dict[str, Any]:
    """A stage's config as plain data, without traces of its folder."""
    return {name: value for name, value in architecture.to_dict().items() if name not in _NOT_KEPT}


def _link(plain: Mapping[str, Any]) -> Link:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
    }
    return Link(**values)


for _config in (LinkedConfig, StageModelConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
