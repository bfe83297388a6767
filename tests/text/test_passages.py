"""Questions with pieces of contexts: tokens, places, roles and targets of windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from chainft.errors import ConfigError, DataError
from chainft.text.answers import Answer
from chainft.text.passages import NULL, Passages, Role, Target, Window, targets

QUESTION = "who left oslo ?"
CONTEXT = "anna, emil and the old company of acme met in new oslo! zab wasn't there."


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_encoder)
    return found


def passages(tokenizer: PreTrainedTokenizerBase, limit: int = 64, **options: Any) -> Passages:
    return Passages.of(tokenizer, limit, **{"overflow": "window", "overlap": 0.25, **options})


def windows_of(made: Passages, question: str, context: str) -> list[Window]:
    return made.windows(made.question(question), made.context(context), "q.jsonl:1")


def byte_level() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer as RoBERTa has it: pieces begin with their space, letters beyond ASCII are two pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {piece: number for number, piece in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    made = Tokenizer(models.BPE(ids, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def test_one_window_is_what_the_tokenizer_makes_of_the_pair(tokenizer: PreTrainedTokenizerBase) -> None:
    for one in (tokenizer, byte_level()):
        made = passages(one, 512)
        context = made.context(CONTEXT)
        (window,) = windows_of(made, QUESTION, CONTEXT)
        arrays, _ = made.feature(made.question(QUESTION), context, window)
        expected = one(QUESTION, CONTEXT, return_offsets_mapping=True)
        assert arrays["input_ids"].tolist() == expected["input_ids"]
        assert made.num_tokens(QUESTION, CONTEXT) == len(expected["input_ids"])
        if "token_type_ids" in arrays:
            assert arrays["token_type_ids"].tolist() == expected["token_type_ids"]
        inside = np.array([part == 1 for part in expected.sequence_ids(0)])
        assert ((arrays["char_starts"] >= 0) == inside).all()
        assert ((arrays["roles"] & Role.CANDIDATE > 0) == (inside | (np.arange(len(inside)) == NULL))).all()


def shown(made: Passages, context: str, role: Role) -> list[str]:
    """The texts of the tokens that have a role."""
    found = made.context(context)
    places = zip(found.starts.tolist(), found.ends.tolist(), found.roles.tolist(), strict=True)
    return [context[start:end] for start, end, roles in places if roles & role]


def test_answers_begin_and_end_with_words(tokenizer: PreTrainedTokenizerBase) -> None:
    made = passages(tokenizer)
    assert shown(made, "zab wasn't x9.", Role.START) == ["z", "w", "'", "t", "x", "."]
    assert shown(made, "zab wasn't x9.", Role.END) == ["b", "n", "'", "t", "9", "."]


def test_places_of_byte_level_pieces_leave_out_the_space() -> None:
    made = passages(byte_level(), 512)
    context = "é  oslo"
    found = made.context(context)
    assert found.span(Answer("oslo", 3)) == (4, 7)
    assert found.span(Answer("é", 0)) == (0, 1)
    assert shown(made, context, Role.START) == ["é", "é", "o"]
    assert shown(made, context, Role.END) == ["é", "é", "o"]


def test_marks_that_the_tokenizer_drops_belong_to_the_word(tokenizer: PreTrainedTokenizerBase) -> None:
    context = "cafe\u0301 a"
    found = passages(tokenizer).context(context)
    assert context[found.starts[0] : found.ends[3]] == "cafe\u0301"


def test_where_no_word_ends_any_token_may(tokenizer: PreTrainedTokenizerBase) -> None:
    made = passages(tokenizer, 16, overlap=0)
    context = made.context("z" * 40)
    question = made.question("who ?")
    for window in made.windows(question, context, "w"):
        arrays, begin = made.feature(question, context, window)
        roles = arrays["roles"][begin : begin + window.end - window.start]
        assert (roles & Role.START).any() and (roles & Role.END).any()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    words=st.lists(st.sampled_from(["anna", "zab", "of", "!"]), min_size=1, max_size=60),
    limit=st.integers(20, 40),
    overlap=st.one_of(st.integers(0, 8), st.sampled_from([0.0, 0.25, 0.5])),
)
def test_windows_cover_every_token_and_hold_every_short_answer(
    tokenizer: PreTrainedTokenizerBase, words: list[str], limit: int, overlap: float
) -> None:
    """fault 13: nothing is lost; an answer no longer than the overlap is whole in a window."""
    made = passages(tokenizer, limit, overlap=overlap)
    context, question = made.context(" ".join(words)), made.question("a ?")
    windows = made.windows(question, context, "w")
    count, room = len(context.ids), limit - 3 - len(question)
    assert {token for one in windows for token in range(one.start, one.end)} == set(range(count))
    assert all(one.end - one.start == min(count, room) for one in windows)
    assert [one.start for one in windows] == sorted({one.start for one in windows})
    shared = int(overlap * room) if isinstance(overlap, float) else overlap
    for start in range(count - shared + 1 if shared else 0):
        assert any(one.holds((start, start + shared - 1)) for one in windows)


def test_truncation_keeps_the_beginning_and_error_refuses(tokenizer: PreTrainedTokenizerBase) -> None:
    long = "anna met emil " * 10
    assert windows_of(passages(tokenizer, 20, overflow="truncate"), "a ?", long) == [Window(0, 15)]
    with pytest.raises(DataError, match="2 and 30 tokens, the most is 20") as caught:
        windows_of(passages(tokenizer, 20, overflow="error"), "a ?", long)
    assert caught.value.problems[0].where == "q.jsonl:1"


def test_question_that_leaves_no_room_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    made = passages(tokenizer, 20)
    assert windows_of(made, "anna " * 12, "oslo " * 30)
    with pytest.raises(DataError, match="13 tokens"):
        windows_of(made, "anna " * 13, "oslo " * 30)
    assert windows_of(made, "anna " * 13, "oslo " * 4) == [Window(0, 4)]


@pytest.mark.parametrize("overlap", [9, 0.6])
def test_overlap_of_more_than_half_is_refused(tokenizer: PreTrainedTokenizerBase, overlap: float) -> None:
    with pytest.raises(ConfigError, match="more than half") as caught:
        passages(tokenizer, 20, overlap=overlap)
    assert caught.value.problems[0].key == "task.window_overlap"


WINDOWS = [Window(0, 10), Window(6, 16), Window(12, 22)]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(7, 8)], [Target(8, 9, 0.25), Target(2, 3, 0.25), Target(NULL, NULL, 0.5)]),
        ([(0, 0)], [Target(1, 1, 0.5), Target(NULL, NULL, 0.25), Target(NULL, NULL, 0.25)]),
        ([(5, 15)], [Target(NULL, NULL, 0.0)] * 3),
        ([None], [Target(NULL, NULL, 0.0)] * 3),
        ([], [Target(NULL, NULL, 1 / 3)] * 3),
        ([(5, 15), None, (14, 15)], [Target(NULL, NULL, 0.5), Target(9, 10, 0.25), Target(3, 4, 0.25)]),
    ],
)
def test_every_question_weighs_one_whatever_its_windows(
    spans: list[tuple[int, int] | None], expected: list[Target]
) -> None:
    """By hand: windows with the answer share one half, those without it the other; an answer in none teaches nothing."""
    assert targets(spans, WINDOWS, [1, 1, 1]) == expected
