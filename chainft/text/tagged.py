"""Sentences whose words carry tags: what is wrong with one, which labels all have, and where entities stand in a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from chainft.data.example import Example, Finding, Split
from chainft.errors import DataError, Problem
from chainft.tasks.base import Labels
from chainft.text.inputs import text_problems
from chainft.text.labels import Census, label_set
from chainft.text.schemes import OUTSIDE, Detected, Scheme, convert, detect, malformed, repaired, spans_of, violations

MAX_PROBLEMS = 20
"""How many illegal tags one error lists; it counts the rest."""
Examples = Mapping[Split, Sequence[Example]]
Places = Sequence[tuple[int, int]]
"""`[start, end)` of each word in characters."""


def check_sentence(example: Example, scheme: Scheme | None) -> Iterator[Problem]:
    """What is wrong with one example: types, lengths, characters, and tags (steps between them if `scheme` is known)."""
    words, tags = example.values["tokens"], example.values.get("tags")
    yield from check_words(words, where=example.where)
    if tags is None:
        return
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        help = 'write one tag a word as a list, such as ["B-PER", "O"]'
        yield Problem("wrong-type", f"tags {_short(tags)} are not a list of texts", example.where(), help=help)
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


def check_words(words: object, *, where: Callable[[int | None], str]) -> Iterator[Problem]:
    """Words must be a list of texts that a tokenizer takes; `where` says where an item (None: the list) stands."""
    if not isinstance(words, list):
        message = f"tokens must be a list of words, not {type(words).__name__}"
        yield Problem("wrong-type", message, where(None), help="split the text into words")
        return
    for index, word in enumerate(words):
        yield from text_problems(word, f"item {index} of the words", where(index))


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
    """The scheme of train (of all splits where there is no train): the other splits are held against it."""
    chosen = [splits["train"]] if splits.get("train") else splits.values()
    return detect(example.values["tags"] for examples in chosen for example in examples)


def check_scheme(splits: Examples, detected: Detected) -> None:
    """Raise DataError for splits in another scheme than the one that was found, and else for the tags it forbids."""
    illegal = {
        split: [found for row in rows for found in illegal_tags(row, detected.scheme)]
        for split, rows in splits.items()
    }
    problems = [found for rows in illegal.values() for found in rows]
    if not problems:
        return
    others = {split: _other_than_train(split, splits, detected) for split, found in illegal.items() if found}
    if told := [replace(other, where=illegal[split][0].where) for split, other in others.items() if other]:
        raise DataError.of(told)
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


def other_scheme(split: Split, rows: Sequence[Example], scheme: Scheme) -> Problem | None:
    """The problem of a split that is legal as a whole in another scheme than the one that is set."""
    own = _own_scheme(rows, scheme)
    if own is None:
        return None
    message = f"{split} is in {own.scheme} ({own.evidence}), but task.scheme = {scheme}"
    help = f"set task.scheme={own.scheme} if all splits are in it, or write its tags in {scheme}"
    return Problem("other-scheme", message, key=f"data.{split}", help=help)


def _other_than_train(split: Split, splits: Examples, train: Detected) -> Problem | None:
    """The problem of a split that is legal as a whole in another scheme than train's; None for single mistakes."""
    own = _own_scheme(splits[split], train.scheme) if split != "train" and splits.get("train") else None
    if own is None:
        return None
    message = f"{split} is in {own.scheme} ({own.evidence}), but train is in {train.scheme} ({train.evidence})"
    help = f"write its tags in {train.scheme} too"
    if split == "test":
        help += "; or train without it and score it by itself: chainft evaluate RUN_FOLDER data.test=FILE"
    return Problem("other-scheme", message, key=f"data.{split}", help=help)


def _own_scheme(rows: Sequence[Example], other: Scheme) -> Detected | None:
    """The scheme in which all rows are legal, where it is not `other`."""
    own = detect(row.values["tags"] for row in rows)
    if own.scheme == other or any(violations(row.values["tags"], own.scheme) for row in rows):
        return None
    return own


def iob2(example: Example) -> list[str]:
    """The tags of an example in IOB2, whatever legal scheme they are in."""
    return convert(example.values["tags"], "iob2")


def learn_tags(splits: Examples, *, unseen: Literal["error", "allow"]) -> Labels:
    """The IOB2 tags of train: O, then by type, B- before I-. Raises DataError for types that only other splits have.

    Every type has both tags, whether or not train has an entity of one word or of several: which of them it happens
    to have says nothing about the type.
    """
    types = label_set(census(splits), unseen=unseen, what="entity type")
    names = (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))
    counts = Counter(tag for example in splits.get("train", ()) for tag in iob2(example))
    return Labels(names, {name: counts[name] for name in names})


def census(splits: Examples) -> dict[Split, Census]:
    """The entity types of each split, with the number of their entities and the first place."""
    found: dict[Split, Census] = {}
    for split, examples in splits.items():
        found[split] = Census()
        for example in examples:
            for span in spans_of(example.values["tags"]):
                found[split].add(span.type, example.where(span.start))
    return found


def split_findings(splits: Examples) -> Iterator[Finding]:
    """Splits without any entity, and types that will never be learned (`data.unseen_labels: allow`)."""
    found = census(splits)
    for split, types in found.items():
        if splits[split] and not types.counts:
            yield Finding(
                "no-entities",
                "error" if split == "train" else "warning",
                f"every word of {split} has the tag O: there is no entity to {'learn' if split == 'train' else 'find'}",
                splits[split][0].where(),
                "check data.columns.tags, and that the file is the right one",
            )
        for kind in sorted(types.counts.keys() - found["train"].counts.keys()) if "train" in found else ():
            yield Finding(
                "unseen-label",
                "warning",
                f"{split} has {types.counts[kind]} entities of type {kind!r}, which train does not have: all are missed",
                types.first[kind],
                count=types.counts[kind],
            )


def fill_unseen(tags: Sequence[str | None]) -> list[str]:
    """Tag the words that the model cannot see (None): O, or I- where the entity before them goes on after them.

    >>> fill_unseen(["B-PER", None, "I-PER", None])
    ['B-PER', 'I-PER', 'I-PER', 'O']
    """
    filled: list[str] = []
    waiting = 0
    before = OUTSIDE
    for tag in tags:
        filled.append(tag or OUTSIDE)
        if tag is None:
            waiting += 1
            continue
        if waiting and tag.startswith("I-") and before[2:] == tag[2:]:
            filled[-1 - waiting : -1] = [tag] * waiting
        waiting, before = 0, tag
    return filled


def scheme_finding(detected: Detected) -> Finding:
    """Which scheme the tags are in, and why it is believed."""
    told = f"the tags are {detected.scheme} ({detected.evidence})"
    if detected.scheme == "io":
        told += "; entities of one type that touch count as one, since nothing tells them apart"
        return Finding("tag-scheme", "warning", told, help="tag the first word of each entity with B-")
    return Finding("tag-scheme", "info", told + ("" if detected.scheme == "iob2" else "; the model learns iob2"))


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
    tags: Sequence[str], probabilities: Sequence[float | None], text: str, places: Places
) -> list[dict[str, str | int | float]]:
    """The entities that predicted tags make, with their places in `text`.

    Grouped as `transformers.pipeline(aggregation_strategy="first")` does: B- starts one, and I- of a type goes on
    with that type or else starts one too. The score is the mean over the entity's words that the model sees (probability not None).
    """
    entities: list[dict[str, str | int | float]] = []
    for span in spans_of(tags):
        start, end = places[span.start][0], places[span.end - 1][1]
        seen = [value for value in probabilities[span.start : span.end] if value is not None]
        score = sum(seen) / len(seen)
        entities.append({"type": span.type, "text": text[start:end], "start": start, "end": end, "score": score})
    return entities


def _malformed_tags(example: Example) -> Iterator[Problem]:
    for index, tag in enumerate(example.values["tags"]):
        is_number = tag.lstrip("-").isdigit()
        wrong = f"tag {tag!r} is a number" if is_number else malformed(tag)
        if wrong:
            better = None if is_number else repaired(example.values["tags"], index, "iob2")
            help = f"write {better!r} there" if better else "tags are O or prefix-type, such as B-PER"
            yield Problem("illegal-tag", f"item {index}: {wrong}", example.where(index), help=help)


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
