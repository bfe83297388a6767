"""Dialogue: all answers of a conversation in one sequence, history cut at turns, and answers by passages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedModel

from chainft.config.compose import compose
from chainft.config.parse import parse
from chainft.config.run import ModelConfig
from chainft.data.contract import check_contract
from chainft.data.example import Example, Origin
from chainft.data.load import load_splits
from chainft.errors import ConfigError, DataError, ModelError
from chainft.metrics.diversity import Diversity
from chainft.models.load import load_config, load_model
from chainft.registry import find
from chainft.tasks.dialogue import Dialogue, DialogueConfig

Writer = Callable[[str], Path]

CHAT = (
    "{% for m in messages %}[CLS] {{ m.role[0] }} {{ m.content }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}[CLS] a {% endif %}"
)
"""A turn is its words and three more tokens."""


def example(*texts: str, system: str | None = None, number: int = 1) -> Example:
    """A conversation that the user begins."""
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    first = [] if system is None else [{"role": "system", "content": system}]
    return Example({"messages": first + turns}, Origin("data.jsonl", number))


LONG = example("anna visited", "paris", "and ben", "oslo , rome", "david likes", "a good city", number=1)
SHORT = example("emil", "lima is near", system="the old city", number=2)


def make(
    folder: Path, *, max_length: int = 64, chat: str | None = CHAT, **settings: Any
) -> tuple[Dialogue, PreTrainedModel]:
    task = Dialogue(parse(DialogueConfig, {"name": "dialogue", "max_new_tokens": 8, **settings}, at="task"))
    task.adapt(load_config(ModelConfig(path=str(folder))))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = chat
    task.prepare(tokenizer, max_length=max_length)
    return task, load_model(ModelConfig(path=str(folder)), task, seed=0).model.eval()


def learned(task: Dialogue, feature: dict[str, np.ndarray]) -> list[str]:
    tokens: list[str] = task.tokenizer.convert_ids_to_tokens(feature["labels"][feature["labels"] != -100].tolist())
    return tokens


def test_the_plugin_is_found() -> None:
    assert find("task", "dialogue", key="task.name") is Dialogue


# One sequence ---------------------------------------------------------------------------------------


def test_labels_are_the_next_tokens_of_every_answer_and_of_nothing_else(tiny_decoder: Path) -> None:
    task, _ = make(tiny_decoder)
    (feature,) = task.encode(LONG)
    wanted = ["paris", "[SEP]", "oslo", ",", "rome", "[SEP]", "a", "good", "city", "[SEP]"]
    assert learned(task, feature) == wanted
    kept = np.flatnonzero(feature["labels"] != -100)
    assert feature["labels"][kept].tolist() == feature["input_ids"][kept + 1].tolist()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_loss_of_one_sequence_is_that_of_each_answer_after_its_history(writer: Writer, kind: str) -> None:
    """Nothing is computed twice, and nothing is learned that an answer by itself would not be."""
    task, model = make(writer(kind))
    batch = task.collate([task.encode(one)[0] for one in (LONG, SHORT)], [0, 1])
    with torch.inference_mode():
        together = float(task.loss(model(**task.arguments(batch)), batch))
        apart = 0.0
        for one in (LONG, SHORT):
            turns = task.turns(one)
            for place in range(len(turns)):
                if turns[place].role == "assistant":
                    whole = task.chat.encode(turns[: place + 1], where="")
                    ids = torch.tensor(whole.ids[None].astype(np.int64))
                    logits = model(input_ids=ids).logits[0, whole.prompt_length - 1 : -1]
                    apart += float(functional.cross_entropy(logits, ids[0, whole.prompt_length :], reduction="sum"))
    assert together == pytest.approx(apart, rel=1e-5)
    assert task.num_targets(batch) == 10 + 5


def test_evaluation_answers_as_prediction_does_after_the_same_history(tiny_decoder: Path, writer: Writer) -> None:
    task, model = make(writer("llama"))
    rows = [task.encode(one)[0] for one in (LONG, SHORT)]
    asked = [
        task.read_input({"messages": [turn.as_message() for turn in task.history(one)]}, where="in:1")
        for one in (LONG, SHORT)
    ]
    with torch.inference_mode():
        evaluated = task.infer(model, task.collate(rows, [0, 1])).raw
        predicted = [task.infer(model, task.collate(task.encode(one), [0])).raw[0] for one in asked]
    assert [one[0].tolist() for one in evaluated] == [one[0].tolist() for one in predicted]
    heard: list[int] = []
    prediction = task.stream(model, asked[0], heard.append)
    assert [token for token in heard if token != task.tokenizer.eos_token_id] == evaluated[0][0].tolist()
    assert prediction["response"] == task.to_text(evaluated[0][0])


def test_a_model_learns_every_answer(tiny_decoder: Path) -> None:
    task, model = make(tiny_decoder)
    batch = task.collate([task.encode(one)[0] for one in (LONG, SHORT)], [0, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = task.loss(model(**batch.inputs), batch) / task.num_targets(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert math.exp(float(loss.detach())) < 1.2
    for history, answer in (["anna visited"], "paris"), (["anna visited", "paris", "and ben"], "oslo, rome"):
        messages = example(*history).values["messages"]
        given = task.read_input({"messages": messages}, where="in:1")
        assert task.stream(model, given, lambda _: None)["response"].replace(" ,", ",") == answer


# Too long -------------------------------------------------------------------------------------------


def test_the_oldest_turns_are_left_out_whole_and_the_system_s_stays(tiny_decoder: Path) -> None:
    whole = example("anna visited", "paris", "and ben", "oslo , rome", "david likes", "a good city", system="the old")
    task, _ = make(tiny_decoder, max_length=33)
    (feature,) = task.encode(whole)
    assert feature["turns_cut"].tolist() == [2]
    wanted = task.chat.encode([task.turns(whole)[0], *task.turns(whole)[3:]], where="")
    assert feature["input_ids"].tolist() == wanted.ids.tolist()
    assert int(feature["source_length"][0]) + 8 <= 33
    (finding,) = [one for one in task.contract({"train": [whole, SHORT]}) if one.slug == "cut-history"]
    assert (finding.count, finding.where) == (1, "data.jsonl:1")
    assert "(2 in all)" in finding.message
    assert task.decode(whole, [feature], [None])["turns_cut"] == 2


@pytest.mark.parametrize(("overflow", "max_length"), [("error", 33), ("truncate_start", 14)])
def test_a_conversation_without_room_is_refused_at_its_place(
    tiny_decoder: Path, overflow: str, max_length: int
) -> None:
    task, _ = make(tiny_decoder, max_length=max_length, overflow=overflow)
    whole = example(
        "anna visited the house", "paris", "and ben " * 4, "oslo , rome", "david likes", "a good city of in at"
    )
    with pytest.raises(DataError, match=f"more than {max_length}") as caught:
        task.encode(whole)
    assert caught.value.problems[0].where == "data.jsonl:1"


# What is refused and what is told ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"instruction": "say {messages}"}, "task.instruction"),
        ({"num_passages": 2}, "task.num_passages"),
        ({"system": " "}, "task.system"),
        ({"template": "say"}, "task.template"),
        ({"template": "chat"}, "task.template"),
        ({"max_new_tokens": 64}, "task.max_new_tokens"),
    ],
)
def test_settings_without_effect_are_refused(tiny_decoder: Path, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tiny_decoder, chat=None, **settings)
    assert caught.value.problems[0].key == key


def test_an_encoder_decoder_is_refused(writer: Writer) -> None:
    with pytest.raises(ModelError, match="is an encoder-decoder"):
        make(writer("t5"))


def test_joined_turns_unanswered_ends_and_greetings_are_counted_and_told(tiny_decoder: Path) -> None:
    task, _ = make(tiny_decoder)
    odd = Example(
        {
            "messages": [
                {"role": role, "content": "anna"} for role in ("assistant", "user", "user", "assistant", "user")
            ]
        },
        Origin("data.jsonl", 9),
    )
    found = {one.slug: (one.count, one.where) for one in task.contract({"train": [LONG, odd]})}
    assert found == {slug: (1, "data.jsonl:9") for slug in ("joined-turns", "unanswered-turns", "greetings")}
    (feature,) = task.encode(odd)
    assert learned(task, feature) == ["anna", "[SEP]"]


def test_the_system_of_the_config_speaks_only_where_a_conversation_has_none(tiny_decoder: Path) -> None:
    task, _ = make(tiny_decoder, system="bad")
    assert [turn.content for turn in task.turns(LONG)][:2] == ["bad", "anna visited"]
    assert [turn.content for turn in task.turns(SHORT)][:2] == ["the old city", "emil"]


def test_a_conversation_that_ends_with_the_assistant_asks_nothing(tiny_decoder: Path) -> None:
    task, _ = make(tiny_decoder)
    with pytest.raises(DataError, match="nothing to answer"):
        task.read_input(dict(LONG.values), where="in:1")
    assert task.read_input("hello", where="in:1").values == {"history": [{"role": "user", "content": "hello"}]}


# Passages -------------------------------------------------------------------------------------------


def test_passages_stand_before_the_last_message_and_are_named_as_sources(tiny_decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "cities.txt").write_text("paris is old\n\n# rome\nrome is near\n")
    task, _ = make(tiny_decoder, documents=str(tmp_path), num_passages=1, max_length=128)
    asked = task.read_input({"messages": example("paris", "good", "and rome").values["messages"]}, where="in:1")
    (feature,) = task.encode(asked)
    text = task.tokenizer.decode(feature["input_ids"])
    assert text.index("rome is near") < text.index("and rome")
    prediction = task.decode(asked, [feature], [[np.array([5])]])
    assert prediction["sources"] == [{"file": "cities.txt", "lines": [3, 4]}]
    assert json.loads(json.dumps(prediction)) == prediction
    nothing = task.read_input("quito", where="in:1")
    assert task.decode(nothing, task.encode(nothing), [[np.array([5])]])["sources"] == []


def test_passages_without_room_are_left_out_of_the_sources_too(tiny_decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "cities.txt").write_text("rome is near " * 30)
    task, _ = make(tiny_decoder, documents=str(tmp_path))
    asked = task.read_input("and rome", where="in:1")
    (feature,) = task.encode(asked)
    assert len(feature["input_ids"]) < 20
    assert task.decode(asked, [feature], [[np.array([5])]])["sources"] == []


# Scores ---------------------------------------------------------------------------------------------


def test_distinct_n_and_length_are_counted_by_hand() -> None:
    metric = Diversity()
    metric.update(["a b c d e"], "a b a b")
    metric.update(["a"], "A c")
    scores = metric.compute().values
    assert scores == pytest.approx({"distinct_1": 3 / 6, "distinct_2": 3 / 6, "length_ratio": 6 / 6})
    assert Diversity().compute().values == {"distinct_1": 0.0, "distinct_2": 0.0, "length_ratio": 0.0}


def test_baselines_are_the_commonest_answer_and_that_to_the_nearest_history(tiny_decoder: Path) -> None:
    task, _ = make(tiny_decoder)
    train = [
        example("hello", "good day", "where is oslo", "in the north"),
        example("hello again", "good day", "where is rome", "in the south"),
    ]
    found = task.baselines(train)
    asked = example("tell me where rome is", "-")
    assert {name: answer(asked) for name, answer in found.items()} == {
        "most_frequent": "good day",
        "retrieval": "in the south",
    }


# Starter data, and odd characters ----------------------------------------------------------------------


def test_the_starter_data_are_sound_and_no_conversation_is_in_two_splits() -> None:
    config = compose(["task=dialogue"]).config
    task = Dialogue(DialogueConfig())
    splits = load_splits(config.data, task)
    assert {split: len(rows) for split, rows in splits.examples.items()} == {"train": 49, "validation": 10, "test": 10}
    assert [one.slug for one in check_contract(splits, task)] == []


def test_odd_characters_in_a_turn_are_found_at_its_line() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "caf\u00c3\u00a9"}]
    odd = Example({"messages": turns}, Origin("turns.tsv", 2), (2, 3))
    task = Dialogue(DialogueConfig())
    from chainft.data.load import Splits

    found = {one.slug: one.where for one in check_contract(Splits({"train": [odd]}, ""), task)}
    assert found["mojibake"] == "turns.tsv:3"
