"""The task `classify`: texts or pairs of texts with one label, any number of labels, or a number.

The kinds are in `_single_label`, `_multi_label` and `_regression`; what they share is in `_classify`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from chainft.config.run import TaskConfig
from chainft.tasks._classify import TextClassifier
from chainft.tasks._classify_config import ClassifyConfig
from chainft.tasks._multi_label import MultiLabel
from chainft.tasks._regression import Regression
from chainft.tasks._single_label import SingleLabel

__all__ = ["Classify", "ClassifyConfig", "MultiLabel", "Regression", "SingleLabel"]

_KINDS: Mapping[str, type[TextClassifier]] = {"single": SingleLabel, "multi": MultiLabel, "regression": Regression}


class Classify(TextClassifier):
    """`Classify(config)` gives the kind that the settings ask for: a `SingleLabel`, `MultiLabel` or `Regression`."""

    tuned_fields: ClassVar[tuple[str, ...]] = tuple(name for kind in _KINDS.values() for name in kind.tuned_fields)

    def __new__(cls, config: TaskConfig) -> Any:
        """Raises ConfigError for settings that have no effect."""
        assert isinstance(config, ClassifyConfig)
        return _KINDS[config.kind](config)


PLUGIN = Classify
