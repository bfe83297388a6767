"""What is suspicious in whole splits of questions: contexts in several splits, answers that are not learned or told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from chainft.data.example import Example, Finding, Split
from chainft.text.answers import answers_of
from chainft.text.passages import Passages

Splits = Mapping[Split, Sequence[Example]]


def findings(
    splits: Splits, passages: Passages | None, max_answer_tokens: int, *, may_abstain: bool
) -> Iterator[Finding]:
    """`passages`: where the tokenizer is there, what it makes of questions and contexts."""
    yield from _without_answer(splits, may_abstain=may_abstain)
    yield from _shared_contexts(splits)
    if passages is not None:
        for split, examples in splits.items():
            yield from _answers_in_windows(split, examples, passages, max_answer_tokens)


def _without_answer(splits: Splits, *, may_abstain: bool) -> Iterator[Finding]:
    for split, examples in splits.items():
        none = [example for example in examples if not answers_of(example)]
        if not none:
            continue
        share = f"{split}: {len(none)} of {len(examples)} questions have no answer ({len(none) / len(examples):.0%})"
        if may_abstain:
            yield Finding("unanswerable", "info", share, none[0].where(), count=len(none))
        else:
            message = f"{share}, and none of train: the model always answers, which is wrong there"
            help = "add such questions to train, or set task.unanswerable=true"
            yield Finding("unanswerable", "warning", message, none[0].where(), help, len(none))
    train = splits.get("train", ())
    if train and may_abstain and all(answers_of(example) for example in train):
        message = "train: every question has an answer, so that the model hardly learns when there is none"
        yield Finding("all-answerable", "warning", message, train[0].where(), "set task.unanswerable=auto")


def _shared_contexts(splits: Splits) -> Iterator[Finding]:
    contexts: dict[Split, dict[str, Example]] = {split: {} for split in splits}
    for split, examples in splits.items():
        for example in examples:
            contexts[split].setdefault(example.values["context"], example)
    for one, other in combinations(splits, 2):
        shared = [text for text in contexts[other] if text in contexts[one]]
        if shared:
            yield Finding(
                "shared-context",
                "warning" if other == "test" else "info",
                f"{len(shared)} of {len(contexts[other])} contexts of {other} are also in {one} "
                f"(the first at {contexts[one][shared[0]].where()}): scores on {other} are too good for new texts",
                contexts[other][shared[0]].where(),
                f"name a file for data.{other} with other texts: cut by article, not by question",
                len(shared),
            )


def _answers_in_windows(
    split: Split, examples: Sequence[Example], passages: Passages, max_answer_tokens: int
) -> Iterator[Finding]:
    """Answers that no window holds, and those that are longer than any that is predicted."""
    cut: list[Example] = []
    long: list[Example] = []
    for example in examples:
        context = passages.context(example.values["context"])
        spans = [span for answer in answers_of(example) if (span := context.span(answer)) is not None]
        windows = passages.windows(passages.question(example.values["question"]), context, example.where())
        if answers_of(example) and not any(window.holds(span) for window in windows for span in spans):
            cut.append(example)
        elif spans and min(end - start + 1 for start, end in spans) > max_answer_tokens:
            long.append(example)
    if cut:
        message = f"{split}: the answers of {len(cut)} of {len(examples)} questions are in no window as a whole"
        help = (
            "they teach nothing and count as missed; raise model.max_length, or task.window_overlap for long answers"
        )
        if passages.overflow == "truncate":
            help = "they teach nothing and count as missed; task.overflow=window reads all of each context"
        yield Finding("cut-answer", "warning", message, cut[0].where(), help, len(cut))
    if long:
        message = (
            f"{split}: the answers of {len(long)} of {len(examples)} questions have more than {max_answer_tokens} tokens, "
            "which are never predicted as a whole"
        )
        yield Finding("long-answer", "warning", message, long[0].where(), "raise task.max_answer_tokens", len(long))
