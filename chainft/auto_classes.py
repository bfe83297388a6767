"""Lets transformers' auto classes load linked models once `import chainft` was run, before or after transformers.

`import chainft` must stay light, so it cannot import transformers to register anything, and transformers has no entry
points that it would look into. What is left is to act when transformers' file with `AutoConfig` has been imported: a
finder in `sys.meta_path` that knows this one name wraps its loader, and leaves every other import alone. There the
config of linked models is registered, which is light; the first config of that kind brings the model classes with it,
so that nobody else pays for them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

LINKED = "chainft_linked"
"""`model_type` of linked models (`chainft.stages.links`)."""
STAGE = "chainft_stage"
"""`model_type` of a stage among them that is a module of a plug-in (`chainft.stages.stage_modules`)."""

_THEIRS = "transformers.models.auto.configuration_auto"
_OURS = "chainft.stages.links_config"
"""Registers its config when it is imported."""


def register_when_imported() -> None:
    """Register the config of linked models now, where `AutoConfig` is there, or when it comes."""
    if _THEIRS in sys.modules:
        importlib.import_module(_OURS)
    elif not any(isinstance(finder, _AutoConfigFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoConfigFinder())


class _AutoConfigFinder:
    """Finds the one module as Python does; importing it imports ours too."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _THEIRS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                importlib.import_module(_OURS)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
