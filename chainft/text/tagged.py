"""Sentences whose words carry tags: what is wrong with one, which labels all have, and where entities stand in a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from chainft.data.example import Example, Finding, Split
from chainft.errors import DataError, Problem, did_you_mean
from chainft.tasks.base import Labels
from chainft.text.align import lone_surrogate
from chainft.text.schemes import OUTSIDE, Detected, Scheme, convert, detect, malformed, repaired, spans_of, violations

MAX_PROBLEMS = 20
"""How many illegal tags one error lists; it counts the rest."""
Examples = Mapping[Split, Sequence[Example]]
Places = Sequence[tuple[int, int]]
"""`[start, end)` of each word in characters."""


def check_sentence(example: Example, scheme: Scheme | None) -> Iterator[Problem]:
    """What is wrong with one example: types, lengths, characters, and tags (steps between them if `scheme` is known)."""
    words, tags = example.values["tokens"], example.values.get("tags")
    yield from check_words(words, where=example.where, field="tokens")
    if tags is None:
        return
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        yield Problem("wrong-type", f"tags {_short(tags)} are not a list of texts", example.where())
    elif isinstance(words, list) and len(words) != len(tags):
        yield Problem(
            "length-mismatch",
            f"{len(words)} words but {len(tags)} tags",
            example.where(),
            help="every word needs one tag, O where it is in no entity",
        )
    elif scheme is not None:
        yield from illegal_tags(example, scheme)
    else:
        yield from _malformed_tags(example)


def check_words(words: Any, *, where: Any, field: str) -> Iterator[Problem]:
    """Words must be a list of texts that a tokenizer takes; `where(item)` says where an item stands."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        yield Problem("wrong-type", f"{field} {_short(words)} are not a list of texts", where())
        return
    for index, word in enumerate(words):
        if (place := lone_surrogate(word)) is not None:
            yield surrogate_problem(word, place, where=where(index))


def surrogate_problem(text: str, place: int, *, where: str) -> Problem:
    """The problem of half a character."""
    return Problem(
        "lone-surrogate",
        f"{_short(text)} has half a character ({text[place]!a}) at place {place}",
        where,
        help="the text was cut or decoded wrongly; write it again as UTF-8",
    )


def illegal_tags(example: Example, scheme: Scheme) -> Iterator[Problem]:
    """Every tag that `scheme` forbids where it stands, with the repair that a person may make."""
    tags = example.values["tags"]
    for found in violations(tags, scheme):
        better = repaired(tags, found.index, scheme)
        yield Problem(
            "illegal-tag",
            f"item {found.index}: {found.message}",
            example.where(found.index),
            help=f"write {better!r} there, or set task.scheme if the data use another one than {scheme}"
            if better
            else "tags are O or prefix-type, such as B-PER",
        )


def detect_scheme(splits: Examples) -> Detected:
    """The scheme of all splits together."""
    return detect(example.values["tags"] for examples in splits.values() for example in examples)


def check_scheme(splits: Examples, detected: Detected) -> None:
    """Raise DataError for the tags that are illegal in the scheme that was found."""
    problems = [
        problem
        for examples in splits.values()
        for example in examples
        for problem in illegal_tags(example, detected.scheme)
    ]
    if not problems:
        return
    rest = len(problems) - MAX_PROBLEMS
    listed = problems[:MAX_PROBLEMS]
    if rest > 0:
        listed.append(Problem("more-illegal-tags", f"{rest} more tags are illegal in {detected.scheme}"))
    listed.append(
        Problem(
            "scheme-evidence",
            f"the tags were taken for {detected.scheme}: {detected.evidence}",
            key="task.scheme",
            help="set task.scheme if that is wrong",
        )
    )
    raise DataError.of(listed)


def iob2(example: Example) -> list[str]:
    """The tags of an example in IOB2, whatever legal scheme they are in."""
    return convert(example.values["tags"], "iob2")


def learn_tags(splits: Examples, *, unseen: Literal["error", "allow"]) -> Labels:
    """The IOB2 tags of train: O, then by type, B- before I-. Raises DataError for those that only other splits have."""
    counts = Counter(tag for example in splits.get("train", ()) for tag in iob2(example))
    strange = list(unseen_tags(splits, counts))
    if strange and unseen == "error":
        raise DataError.of(
            Problem(
                "unknown-label",
                finding.message,
                finding.where,
                help=f"{finding.help or 'add examples of it to train'}; data.unseen_labels=allow takes it in all the same",
            )
            for _, finding in strange
        )
    names = {OUTSIDE, *counts, *(tag for tag, _ in strange)}
    return Labels(tuple(sorted(names, key=tag_order)), dict(counts))


def unseen_tags(splits: Examples, known: Mapping[str, int]) -> Iterator[tuple[str, Finding]]:
    """Tags that a split has and train does not, with the place of the first."""
    for split, examples in splits.items():
        times: Counter[str] = Counter()
        first: dict[str, str] = {}
        for example in examples if split != "train" else ():
            for index, tag in enumerate(iob2(example)):
                if tag != OUTSIDE and tag not in known:
                    times[tag] += 1
                    first.setdefault(tag, example.where(index))
        for tag, count in sorted(times.items()):
            message = f"{split} has the label {tag!r} ({_times(count)}), which train does not have"
            yield tag, Finding("unseen-label", "warning", message, first[tag], did_you_mean(tag, known), count)


def tag_order(tag: str) -> tuple[bool, str, str]:
    """Sorts O first, then by type, B- before I-."""
    return tag != OUTSIDE, tag[2:], tag[:2]


def joined(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The words with one space between, and where each stands.

    >>> joined(["New", "York"])
    ('New York', [(0, 3), (4, 8)])
    """
    places, start = [], 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), places


def entities_of(
    tags: Sequence[str], probabilities: Sequence[float], text: str, places: Places
) -> list[dict[str, str | int | float]]:
    """The entities that predicted tags make, with their places in `text`.

    Grouped as `transformers.pipeline(aggregation_strategy="first")` does: B- starts one, and I- of a type goes on
    with that type or else starts one too. The score is the mean over the entity's words.
    """
    entities: list[dict[str, str | int | float]] = []
    for span in spans_of(tags):
        start, end = places[span.start][0], places[span.end - 1][1]
        score = sum(probabilities[span.start : span.end]) / (span.end - span.start)
        entities.append({"type": span.type, "text": text[start:end], "start": start, "end": end, "score": score})
    return entities


def _malformed_tags(example: Example) -> Iterator[Problem]:
    for index, tag in enumerate(example.values["tags"]):
        wrong = f"tag {tag!r} is a number" if tag.lstrip("-").isdigit() else malformed(tag)
        if wrong:
            yield Problem(
                "illegal-tag",
                f"item {index}: {wrong}",
                example.where(index),
                help="tags are O or prefix-type, such as B-PER",
            )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
