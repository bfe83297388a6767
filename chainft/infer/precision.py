"""In which arithmetic a model predicts: that of its weights, or 8-bit integers, as the user chooses."""

from __future__ import annotations

from typing import Literal

from rich.text import Text
from transformers import PreTrainedModel

from chainft.report.console import messages
from chainft.report.words import plural
from chainft.stages.int8_model import Gain, to_int8

Precision = Literal["full", "int8"]


def set_precision(model: PreTrainedModel, precision: Precision) -> None:
    """Change a model, on its device, for prediction; what int8 brings on this machine is told on standard error.

    Raises ConfigError where the precision is not possible.
    """
    if precision == "int8":
        messages().print(Text(_told(to_int8(model))), soft_wrap=True)


def _told(gain: Gain) -> str:
    what = f"the largest of {plural(gain.num_layers, 'linear layer')}, {gain.inputs} to {gain.outputs}, takes"
    if gain.speedup > 1:
        return f"note: int8: {what} {1 / gain.speedup:.2f} of its time in float32, for 128 tokens"
    return (
        f"warning: --precision int8 brings nothing but smaller weights here: {what} {1 / gain.speedup:.1f} times as long "
        "as in float32, for 128 tokens; without it answers are exact and come sooner"
    )
