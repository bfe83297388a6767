"""Resolves `${...}` in a filled-in config and says which keys cannot be resolved, and through which chain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from chainft.errors import ConfigError, Problem, did_you_mean

MISSING = "???"
_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")


def resolve(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with every interpolation replaced. Raises ConfigError that lists all that cannot be."""
    leaves = dict(_leaves(data, ""))
    texts = {key: value for key, value in leaves.items() if isinstance(value, str)}
    problems = [_missing(key) for key, value in texts.items() if value == MISSING]
    written = {key: value for key, value in texts.items() if "${" in value}
    if not written and not problems:
        return data
    cycles = [problem for key in written if (problem := _cycle(key, written))]
    config = _create(data)
    if not cycles:
        problems += [problem for key in written if (problem := _unresolvable(config, key, written, leaves))]
    if problems or cycles:
        raise ConfigError.of(_once(problems + cycles))
    resolved = OmegaConf.to_container(config, resolve=True)
    if not isinstance(resolved, dict):
        raise TypeError(f"resolved to a {type(resolved).__name__}")
    return {str(key): value for key, value in resolved.items()}


def frozen_times(data: Any, resolved: Any) -> Any:
    """`data` as written, except that `${now:...}` becomes the moment it stood for in this run."""
    if isinstance(data, Mapping):
        return {key: frozen_times(value, resolved[key]) for key, value in data.items()}
    if isinstance(data, list):
        return [frozen_times(value, resolved[index]) for index, value in enumerate(data)]
    return resolved if isinstance(data, str) and "${now:" in data else data


def _create(data: dict[str, Any]) -> DictConfig:
    try:
        return OmegaConf.create(data)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0], slug="bad-interpolation") from error


def _leaves(data: object, at: str) -> Iterator[tuple[str, object]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, f"{at}.{key}" if at else str(key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _leaves(value, f"{at}[{index}]")
    else:
        yield at, data


def _missing(key: str) -> Problem:
    return Problem("missing-value", f"{key} must be given (it is '{MISSING}')", key=key, help=f"give it by {key}=...")


def _cycle(start: str, written: Mapping[str, str]) -> Problem | None:
    """The chain of references that comes back to `start`."""
    chain, seen = [start], {start}

    def follow(key: str) -> bool:
        for target in _REFERENCE.findall(written.get(key, "")):
            chain.append(target)
            if target == start:
                return True
            if target not in seen:
                seen.add(target)
                if follow(target):
                    return True
            chain.pop()
        return False

    if not follow(start):
        return None
    return Problem("interpolation-cycle", f"{start} refers to itself: {' -> '.join(chain)}", key=start)


def _unresolvable(
    config: DictConfig, key: str, written: Mapping[str, str], leaves: Mapping[str, object]
) -> Problem | None:
    try:
        OmegaConf.select(config, key, throw_on_missing=True, throw_on_resolution_failure=True)
        return None
    except (OmegaConfBaseException, RecursionError) as error:
        targets = _REFERENCE.findall(written[key])
        lost = next((target for target in targets if target not in leaves), None)
        reason = _reason(str(error))
        help = did_you_mean(lost, leaves) if lost else None
        return Problem("unresolvable", f"{key} = {written[key]} cannot be resolved: {reason}", key=key, help=help)


def _reason(text: str) -> str:
    first = text.splitlines()[0] if text else "it has no end"
    return re.sub(r"^(\w+) raised while resolving interpolation: ", "", first)


def _once(problems: list[Problem]) -> list[Problem]:
    """One problem a cycle, not one for each of its members."""
    found: dict[frozenset[str], Problem] = {}
    for problem in problems:
        chain = problem.message.partition(": ")[2].split(" -> ")
        key = frozenset(chain) if problem.slug == "interpolation-cycle" else frozenset({problem.message})
        found.setdefault(key, problem)
    return list(found.values())
