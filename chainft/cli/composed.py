"""`chainft train --cfg` and `--info`: the composed config, and how it came about, as Hydra's users know them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chainft.cli.flags import Given
from chainft.cli.train import config_dir, config_name
from chainft.config.compose import Draft, compose_draft, finish
from chainft.config.document import to_yaml
from chainft.config.search import search_folders
from chainft.errors import ConfigError, did_you_mean


def show(given: Given) -> int:
    """Print what `--cfg` or `--info` ask for. Raises ConfigError."""
    draft = compose_draft(given.words, config_dir=config_dir(given), config_name=config_name(given))
    if given.has("cfg"):
        print(to_yaml(_package(_config(draft, given), given.flags.get("package"))), end="")
        return 0
    if given.has("resolve") or given.has("package"):
        raise ConfigError("--resolve and --package belong to --cfg", slug="bad-flag", where="--info")
    print("\n".join(_info(draft, given, given.flags["info"])))
    return 0


def _config(draft: Draft, given: Given) -> dict[str, Any]:
    """The part of the composed config; the job's is checked, so that what is printed also trains."""
    job = dict(draft.data)
    composed = finish(draft)
    if given.has("resolve"):
        job = composed.resolved
    hydra = {"hydra": draft.composition.hydra}
    return {"job": job, "hydra": hydra, "all": job | hydra}[given.flags["cfg"]]


def _package(data: Any, key: str | None) -> Any:
    for part in key.split(".") if key else ():
        if not isinstance(data, Mapping) or part not in data:
            known = [str(name) for name in data] if isinstance(data, Mapping) else []
            raise ConfigError(
                f"--package {key}: there is no {part!r} here",
                slug="unknown-key",
                where=f"--package {key}",
                help=did_you_mean(part, known),
            )
        data = data[part]
    return data


def _info(draft: Draft, given: Given, what: str) -> Iterator[str]:
    if what in ("searchpath", "all"):
        yield "config search path (the first that has a file wins):"
        for folder in search_folders(config_dir(given)):
            yield f"  {folder.provider:<16}{folder.path}"
    if what in ("defaults", "all"):
        yield "files in the order in which they were merged:"
        for path, package in draft.composition.defaults:
            if not path.startswith(("hydra/", "_dummy")):
                document = draft.composition.documents.get(path)
                yield f"  {path:<32}package {package or '_global_':<12}{document.path if document else ''}"
    if what in ("config", "all"):
        yield "config:"
        finish(draft)
        yield to_yaml(draft.data).rstrip()
