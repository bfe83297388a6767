"""Rules over the prefix cache that need no model: a chain without a frozen beginning has nothing to keep."""

from __future__ import annotations

from collections.abc import Iterator

from chainft.config.chain import ChainConfig, StageConfig
from chainft.config.no_effect import no_effect
from chainft.config.run import CacheConfig, RunConfig
from chainft.config.stage_rules import stage_names
from chainft.errors import Problem


def a_cache_has_frozen_stages(config: RunConfig) -> Iterator[Problem]:
    because, remedy = nothing_to_keep(config.chain)
    for name in ("prefix", "dtype", "max_gib"):
        value = getattr(config.cache, name)
        if value != getattr(CacheConfig, name) and because and value is not False:
            yield no_effect(f"cache.{name}", value, because, remedy)


def a_cache_that_is_off_has_no_settings(config: RunConfig) -> Iterator[Problem]:
    for name in ("dtype", "max_gib"):
        value = getattr(config.cache, name)
        is_off = config.cache.prefix is False and nothing_to_keep(config.chain)[0] is None
        if is_off and value != getattr(CacheConfig, name):
            yield no_effect(f"cache.{name}", value, "cache.prefix = false", "leave cache.prefix away")


def nothing_to_keep(chain: ChainConfig) -> tuple[str | None, str | None]:
    """Why no outputs can be kept, and what to do about it; None where a model may have them."""
    names = stage_names(chain)
    if not names:
        return "no stage is frozen", "freeze the first one, as chain=frozen_base does"
    first = chain.stages.get(names[0], StageConfig())
    if first.frozen is not True or first.unfreeze_at is not None:
        key = f"chain.stages.{names[0]}"
        remedy = f"set {key}.frozen=true and {key}.eval_mode=true"
        return f"the first stage, {names[0]!r}, is trained", remedy
    return None, None


CACHE_RULES = (a_cache_has_frozen_stages, a_cache_that_is_off_has_no_settings)
