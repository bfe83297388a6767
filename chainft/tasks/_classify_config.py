"""Settings of the task `classify`, and which of them say nothing beside others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from chainft.config.no_effect import no_effect
from chainft.config.ranges import Fraction, FractionBelowOne, Limits, Positive
from chainft.config.run import TaskConfig
from chainft.errors import Problem

Confidence = Annotated[float, Limits(low=0, high=1, open_low=True, open_high=True)]


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(TaskConfig):
    """One label a text (or pair of texts), any number of labels, or a number (`regression`)."""

    name: str = "classify"
    multi_label: bool = False
    """Any number of labels a text, also none, instead of exactly one."""
    regression: bool = False
    """A number a text or pair of texts, such as a rating or a similarity, instead of a label."""
    threshold: Fraction | Literal["auto"] | Mapping[str, Fraction] | None = None
    """With `multi_label`: the probability from which a label is predicted; default 0.5. Numbers for single labels such
    as `{price: 0.4}`, or auto: for each label the one with the best F1 on validation."""
    temperature: Positive | Literal["auto"] | None = None
    """Divides the logits of single labels, so that probabilities say how often the answer is right. auto: the one with
    the least negative log-likelihood on validation. Labels stay as they are."""
    reject: Confidence | Literal["auto"] | None = None
    """Texts whose likeliest label has a smaller probability are out of scope: they get `reject_label`. auto: the
    threshold with the best accuracy on validation, which must have such texts."""
    reject_label: str = "oos"
    """With `reject`: the label of texts out of scope. Validation and test may have it though train has not."""
    target_mean: float | Literal["auto"] = "auto"
    """With `regression`: the model learns (score - target_mean) / target_std. auto: the mean of train."""
    target_std: Positive | Literal["auto"] = "auto"
    """With `regression`: see `target_mean`. auto: the standard deviation of train."""
    overflow: Literal["window", "truncate", "error"] = "window"
    """What an over-long text does: become windows whose predictions are averaged, lose its end, or stop the run."""
    window_overlap: Annotated[int, Limits(low=0)] | FractionBelowOne = 0.25
    """What two windows of an over-long text share: tokens (whole number) or a share of a window; at most half."""
    label_smoothing: FractionBelowOne = 0.0
    """Share of the target that is spread evenly over all labels; with `multi_label`, over yes and no of each label."""
    class_weights: Literal["balanced"] | Mapping[str, Positive] | None = None
    """Weight of each label in the loss: null (all 1), balanced (rare ones more), or numbers such as `{spam: 2}`.
    With `multi_label` it weighs the texts that have the label; those without it weigh 1."""
    metrics: tuple[str, ...] | None = None
    """What evaluation counts; default: classification, calibration and ranking; with `multi_label` multilabel and
    multilabel_ranking, with `regression` regression and rank_correlation."""

    def without_effect(self) -> Iterator[Problem]:
        """Settings that others make pointless."""
        for kind, names in _ONLY.items():
            if kind != self.kind:
                yield from (self._pointless(name, kind) for name in names if self._is_set(name))
        if self.regression:
            for name in ("multi_label", "label_smoothing", "class_weights"):
                if self._is_set(name):
                    yield self._ignored(name, "with task.regression=true there are no labels")
        if self._is_set("reject_label") and self.kind == "single" and self.reject is None:
            yield self._ignored("reject_label", "no text is rejected", "set task.reject=auto, or a probability")
        if self._is_set("window_overlap") and self.overflow != "window":
            yield self._ignored("window_overlap", f"task.overflow = {self.overflow!r} makes no windows")

    @property
    def kind(self) -> Literal["single", "multi", "regression"]:
        """What is predicted of a text: exactly one label, any number, or a number."""
        return "regression" if self.regression else "multi" if self.multi_label else "single"

    def _is_set(self, name: str) -> bool:
        """Whether the setting differs from its default."""
        value: Any = getattr(self, name)
        return bool(value != getattr(ClassifyConfig, name))

    def _pointless(self, name: str, kind: str) -> Problem:
        return self._ignored(name, f"it is for {_WORDS[kind]}", _HELP[kind])

    def _ignored(self, name: str, because: str, help: str | None = None) -> Problem:
        return no_effect(f"task.{name}", getattr(self, name), because, help)


_ONLY: Mapping[str, tuple[str, ...]] = {
    "single": ("temperature", "reject", "reject_label"),
    "multi": ("threshold",),
    "regression": ("target_mean", "target_std"),
}
"""Settings of one kind of answer."""
_WORDS = {"single": "exactly one label a text", "multi": "any number of labels a text", "regression": "numbers"}
_HELP = {
    "single": "leave out task.multi_label and task.regression, or this setting",
    "multi": "set task.multi_label=true as well",
    "regression": "set task.regression=true as well",
}
