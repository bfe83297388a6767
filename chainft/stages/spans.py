"""Ranges of blocks: what `blocks: "embeddings, :4"` means on a model. No torch here.

A model is a row of units: its embeddings, its blocks (of an encoder-decoder first the encoder's, then the decoder's)
and its head. A stage is a span of that row. Between blocks lie positions: position 0 is the input of block 0,
position p the output of block p - 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chainft.errors import ConfigError, Problem, did_you_mean

_RANGE = re.compile(r"(?:(?P<stack>[a-z]+)\.)?(?:(?P<one>-?\d+)|(?P<start>-?\d*):(?P<stop>-?\d*))")


@dataclass(frozen=True)
class BlockMap:
    """How many blocks a model has, by stack."""

    model: str
    """The class of the model, for messages."""
    stacks: Mapping[str, int]
    """`{"": 6}`, or `{"encoder": 6, "decoder": 6}`; in the order of computation."""

    @property
    def num_blocks(self) -> int:
        return sum(self.stacks.values())

    def start_of(self, stack: str) -> int:
        """Position of the stack's block 0."""
        names = list(self.stacks)
        return sum(self.stacks[name] for name in names[: names.index(stack)])

    def __str__(self) -> str:
        parts = [f"{name}.0:{size}" if name else f"0:{size}" for name, size in self.stacks.items()]
        return ", ".join(["embeddings", *parts, "head"])


@dataclass(frozen=True)
class Span:
    """A contiguous part of a model: blocks `start` to `stop` (without it) over all stacks, and its ends."""

    start: int
    stop: int
    embeddings: bool
    """It begins with the model's inputs."""
    head: bool
    """It ends with the model's outputs."""

    @property
    def blocks(self) -> range:
        return range(self.start, self.stop)

    def within(self, block_map: BlockMap) -> str:
        """The span as a user writes it."""
        parts = ["embeddings"] if self.embeddings else []
        for name, size in block_map.stacks.items():
            base = block_map.start_of(name)
            low, high = max(self.start, base) - base, min(self.stop, base + size) - base
            if low < high:
                parts.append(f"{name}.{low}:{high}" if name else f"{low}:{high}")
        return ", ".join([*parts, "head"] if self.head else parts)


def equal_spans(block_map: BlockMap, count: int) -> list[Span]:
    """`count` spans with equally many blocks, the first ones one more where it does not divide."""
    if count > block_map.num_blocks:
        raise ConfigError(
            f"chain.split={count}, but {block_map.model} has {block_map.num_blocks} blocks",
            slug="too-many-stages",
            key="chain.split",
            help=f"give at most {block_map.num_blocks}",
        )
    size, more = divmod(block_map.num_blocks, count)
    cuts = [0]
    for number in range(count):
        cuts.append(cuts[-1] + size + (number < more))
    return spans_between(cuts)


def spans_between(cuts: Sequence[int]) -> list[Span]:
    """The spans between cuts, which begin with 0 and end with the number of blocks."""
    last = len(cuts) - 2
    return [Span(cuts[i], cuts[i + 1], embeddings=i == 0, head=i == last) for i in range(last + 1)]


def read_spans(stages: Mapping[str, str], block_map: BlockMap) -> dict[str, Span]:
    """The spans of stages in their order, which must follow each other from embeddings to head.

    Raises ConfigError with every range that is wrong, and the model's block map.

    >>> block_map = BlockMap("BertModel", {"": 6})
    >>> spans = read_spans({"base": "embeddings, :4", "top": "4:, head"}, block_map)
    >>> spans["top"]
    Span(start=4, stop=6, embeddings=False, head=True)
    """
    problems: list[Problem] = []
    spans: dict[str, Span] = {}
    for name, text in stages.items():
        try:
            spans[name] = read_span(text, block_map, key=f"chain.stages.{name}.blocks")
        except ConfigError as error:
            problems += error.problems
    if not problems:
        problems = list(_seams(spans, block_map))
    if problems:
        raise ConfigError.of(problems)
    return spans


def read_span(text: str, block_map: BlockMap, *, key: str) -> Span:
    """One range. Raises ConfigError where it is malformed, empty, out of range or not contiguous."""
    units: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        units += _units(part, block_map, key)
    last = block_map.num_blocks
    if not units:
        raise _wrong(f"{text!r} holds no block", "empty-range", key, block_map)
    if any(after != before + 1 for before, after in pairwise(units)):
        raise _wrong(f"{text!r} is not one contiguous range in the model's order", "not-contiguous", key, block_map)
    blocks = [unit for unit in units if 0 <= unit < last]
    start = blocks[0] if blocks else (0 if units[0] < 0 else last)
    return Span(start, blocks[-1] + 1 if blocks else start, embeddings=units[0] < 0, head=units[-1] == last)


def _units(part: str, block_map: BlockMap, key: str) -> Sequence[int]:
    """The units that a part names: -1 for the embeddings, blocks from 0, their number for the head."""
    if part in ("embeddings", "head"):
        return [-1 if part == "embeddings" else block_map.num_blocks]
    found = _RANGE.fullmatch(part)
    if found is None:
        near = did_you_mean(part, ["embeddings", "head"])
        raise _wrong(f"{part!r} is neither embeddings, head nor a range of blocks", "bad-range", key, block_map, near)
    stack = found["stack"] or ""
    if stack not in block_map.stacks:
        names = " and ".join(f"{name}." for name in block_map.stacks if name)
        what = f"there is no stack {stack!r}" if stack else f"{part!r} does not say of which stack"
        raise _wrong(f"{what}: {names or 'this model has one stack, without a name'}", "bad-range", key, block_map)
    size, base = block_map.stacks[stack], block_map.start_of(stack)
    if found["one"] is not None:
        start = _place(int(found["one"]), size)
        stop = start + 1
    else:
        start = _place(int(found["start"]), size) if found["start"] else 0
        stop = _place(int(found["stop"]), size) if found["stop"] else size
    if not 0 <= start <= size or not 0 <= stop <= size:
        raise _wrong(f"{part!r} is beyond the {size} blocks", "out-of-range", key, block_map)
    if stop <= start:
        raise _wrong(f"{part!r} holds no block", "empty-range", key, block_map)
    return range(base + start, base + stop)


def _place(index: int, size: int) -> int:
    """A negative index counts from the end."""
    return index + size if index < 0 else index


def _seams(spans: Mapping[str, Span], block_map: BlockMap) -> Iterator[Problem]:
    """Gaps and overlaps between neighbours, and ends that nobody has."""
    names = list(spans)
    first, last = names[0], names[-1]
    if not spans[first].embeddings or spans[first].start:
        yield _problem(first, "gap", "the first stage must begin with the embeddings", block_map)
    if not spans[last].head:
        yield _problem(last, "gap", "the last stage must end with the head", block_map)
    for before, after in pairwise(names):
        one, two = spans[before], spans[after]
        if two.embeddings or one.head or two.start < one.stop:
            yield _problem(after, "overlap", f"stages {before!r} and {after!r} overlap", block_map)
        elif two.start > one.stop:
            missing = Span(one.stop, two.start, embeddings=False, head=False).within(block_map)
            yield _problem(after, "gap", f"blocks {missing} are in no stage", block_map)


def _problem(stage: str, slug: str, message: str, block_map: BlockMap) -> Problem:
    return Problem(slug, message, key=f"chain.stages.{stage}.blocks", help=_map(block_map))


def _wrong(message: str, slug: str, key: str, block_map: BlockMap, near: str | None = None) -> ConfigError:
    return ConfigError(message, slug=slug, key=key, help=near or _map(block_map))


def _map(block_map: BlockMap) -> str:
    return f"{block_map.model} is: {block_map}"
