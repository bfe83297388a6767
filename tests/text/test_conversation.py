"""Conversations: forms in which they come, what is wrong with them, and how templates write them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from chainft.errors import ConfigError, DataError
from chainft.text.chat import find_chat_format
from chainft.text.conversation import Turn, answer_problems, answered, turn_problems, turns_of

CHATML = (
    "{% for m in messages %}[CLS] {{ m.role }} {{ m.content }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}[CLS] assistant {% endif %}"
)
"""Like ChatML: each turn between two control tokens."""
TURNS = [
    Turn("system", "a good city"),
    Turn("user", "anna visited"),
    Turn("assistant", "paris"),
    Turn("user", "and ben"),
    Turn("assistant", "oslo , rome"),
]


def where(number: int | None) -> str:
    return "f" if number is None else f"f:{number}"


def slugs(value: Any) -> list[str]:
    return [one.slug for one in turn_problems(value, where)]


@pytest.fixture
def tokenizer(tiny_decoder: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_decoder)
    return loaded


def learned(tokenizer: PreTrainedTokenizerBase, template: str | None, turns: list[Turn]) -> tuple[list[str], int]:
    """The tokens that are learned, as text; and how many come before the last answer."""
    tokenizer.chat_template = template
    found = find_chat_format(tokenizer, "auto").encode(turns, where="f:1")
    return tokenizer.convert_ids_to_tokens(found.ids[found.is_learned].tolist()), found.prompt_length


def test_share_gpt_s_names_are_the_same_turns() -> None:
    ours = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    theirs = [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert turns_of(ours) == turns_of(theirs) == [Turn("system", "s"), Turn("user", "a"), Turn("assistant", "b")]
    assert slugs(ours) == slugs(theirs) == []


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ([], ["not-a-conversation"]),
        ("hello", ["not-a-conversation"]),
        (["hello"], ["not-a-turn"]),
        ([{"role": "agent", "content": "a"}], ["unknown-role"]),
        ([{"content": "a"}], ["unknown-role"]),
        ([{"role": "user"}], ["no-content"]),
        ([{"role": "user", "content": " \n"}], ["empty-turn"]),
        ([{"role": "user", "content": 3}], ["not-text"]),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], ["late-system-turn"]),
    ],
)
def test_what_is_no_conversation_is_told_by_turn(value: Any, wanted: list[str]) -> None:
    assert slugs(value) == wanted


def test_the_problem_of_a_turn_names_its_role_its_place_and_the_nearest_right_one() -> None:
    (problem,) = turn_problems([{"role": "user", "content": "a"}, {"role": "asistant", "content": "b"}], where)
    assert "turn 2" in problem.message
    assert "'asistant'" in problem.message
    assert problem.where == "f:1"
    assert "assistant" in str(problem.help)


@pytest.mark.parametrize("roles", [["user"], ["assistant"], ["system", "assistant"], ["assistant", "user"]])
def test_without_an_answer_to_a_user_there_is_nothing_to_learn(roles: list[str]) -> None:
    (problem,) = answer_problems([{"role": role, "content": "a"} for role in roles], "f:1")
    assert problem.slug == "no-assistant-turn"


@given(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=8))
def test_joining_keeps_every_text_and_leaves_roles_that_alternate(roles: list[str]) -> None:
    turns = turns_of([{"role": role, "content": str(number)} for number, role in enumerate(roles)])
    assert "\n".join(turn.content for turn in turns).split("\n") == [str(number) for number in range(len(roles))]
    assert all(one.role != other.role for one, other in pairwise(turns))
    assert all(turns[place - 1].role == "user" for place in answered(turns))


def test_the_answers_and_their_ends_are_learned_and_nothing_else(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens, before = learned(tokenizer, CHATML, TURNS)
    assert tokens == ["paris", "[SEP]", "oslo", ",", "rome", "[SEP]"]
    text = tokenizer.apply_chat_template(
        [turn.as_message() for turn in TURNS[:4]], tokenize=False, add_generation_prompt=True
    )
    assert before == len(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_prompt_of_an_answer_is_what_training_saw_before_it(tokenizer: PreTrainedTokenizerBase) -> None:
    for template in (CHATML, None):
        tokenizer.chat_template = template
        chat = find_chat_format(tokenizer, "auto")
        whole = chat.encode(TURNS, where="f:1")
        assert chat.prompt(TURNS[:4], where="f:1").tolist() == whole.ids[: whole.prompt_length].tolist()


def test_a_model_without_a_template_gets_a_plain_one_that_other_tools_render_too(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokens, _ = learned(tokenizer, None, TURNS)
    assert tokens == ["paris", "[SEP]", "oslo", ",", "rome", "[SEP]"]
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    messages = [turn.as_message() for turn in TURNS[:2]]
    shown = again.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shown == "[CLS]System: a good city\nUser: anna visited\nAssistant:"


def test_a_greeting_before_any_user_is_read_and_not_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens, _ = learned(tokenizer, CHATML, [Turn("assistant", "lima"), *TURNS[1:3]])
    assert tokens == ["paris", "[SEP]"]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}", "no control token ends"),
        ("{% for m in messages %}{{ m.content if loop.last else 'x' }}[SEP]{% endfor %}", "otherwise once more turns follow"),
        ("{% for m in messages %}{{ raise_exception('never') }}{% endfor %}", "never"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}[SEP]{% endfor %}{% if add_generation_prompt %}A:{% endif %}", "otherwise once more turns follow"),
    ],
    ids=["no end", "rewrites", "refuses", "other prompt"],
)  # fmt: skip
def test_a_template_that_cannot_serve_is_refused_with_the_way_out(
    tokenizer: PreTrainedTokenizerBase, template: str, why: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=why) as caught:
        find_chat_format(tokenizer, "auto")
    (problem,) = caught.value.problems
    assert problem.key == "task.template"
    assert "task.template=plain" in str(problem.help)
    find_chat_format(tokenizer, "plain").encode(TURNS, where="f:1")


def test_a_template_s_own_end_of_turn_becomes_the_end_of_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """As in templates of Gemma and Llama 3: the control token that ends a turn is not the one that ends a text."""
    tokens, _ = learned(tokenizer, CHATML.replace("[SEP]", "[MASK]"), TURNS)
    assert tokens[:2] == ["paris", "[MASK]"]
    assert tokenizer.eos_token == "[MASK]"


def test_a_conversation_that_the_template_refuses_is_told_with_its_place(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    chat = find_chat_format(tokenizer, "auto")
    with pytest.raises(DataError, match="no system") as caught:
        chat.encode(TURNS, where="data.jsonl:7")
    assert caught.value.problems[0].where == "data.jsonl:7"


def test_control_tokens_in_a_text_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = find_chat_format(tokenizer, "auto")
    with pytest.raises(DataError, match=r"turn 2 .*'\[SEP\]'"):
        chat.check_content([Turn("user", "a"), Turn("assistant", "b[SEP]c")], where="f:1")
