"""Several tasks as one: shared features, shares of a batch, and what their losses weigh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chainft.config.joint import JointConfig
from chainft.config.parse import parse
from chainft.config.run import ModelConfig, TaskConfig
from chainft.data.example import Example, Origin
from chainft.errors import CheckpointError, ConfigError
from chainft.infer.trained import load_run
from chainft.models.load import load_tokenizer
from chainft.stages.trunk_load import build_joint
from chainft.tasks.base import Labels, Task
from chainft.tasks.joint import Joint, JointByLoss

ROWS = [
    {"names": {"tokens": ["anna", "met", "ben"], "tags": ["B-PER", "O", "B-PER"]}},
    {"names": {"tokens": ["oslo"], "tags": ["B-LOC"]}},
    {"mood": {"text": "good and fine", "label": "good"}},
    {"mood": {"text": "bad", "label": "bad"}},
    {"mood": {"text": "awful old city , awful river", "label": "bad"}},
]


def examples() -> list[Example]:
    return [Example(row, Origin("rows", number)) for number, row in enumerate(ROWS)]


def new_task(model: Path, **settings: Any) -> Task:
    tasks = {"names": {"name": "ner"}, "mood": {"name": "classify"}}
    task = Joint(parse(JointConfig, {"name": "joint", "tasks": tasks, **settings}))
    task.learn_labels({"train": examples()}, unseen="error")
    task.prepare(load_tokenizer(ModelConfig(path=str(model))), max_length=16)
    return task


@pytest.fixture
def task(tiny_encoder: Path) -> Task:
    return new_task(tiny_encoder)


def gradients(task: Task, model: Any, cuts: list[list[int]]) -> tuple[float, dict[str, torch.Tensor]]:
    rows = [feature for example in examples() for feature in task.encode(example)]
    batches = task.balanced([task.collate([rows[row] for row in cut], cut) for cut in cuts])
    total = sum(task.num_targets(batch) for batch in batches)
    model.zero_grad()
    loss = 0.0
    for batch in batches:
        one = task.loss(model(**task.arguments(batch)), batch) / total
        one.backward()  # type: ignore[no-untyped-call]
        loss += one.item()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_labels_of_all_tasks_are_put_back_to_each(task: Task) -> None:
    assert {"names/B-PER", "mood/bad"} <= set(task.labels.names)
    saved = Labels(task.labels.names, dict(task.labels.counts))
    mine = task.tasks["mood"].labels
    task.labels = Labels()
    assert task.tasks["mood"].labels.names == ()
    task.labels = saved
    assert task.tasks["mood"].labels == mine and mine.counts == {"bad": 2, "good": 1}


def test_a_text_for_all_tasks_is_one_feature(task: Task) -> None:
    rows = task.encode(task.read_input("anna met ben", where="here:1"))
    assert len(rows) == 1
    assert {"input_ids", "names.word_ids", "mood.window_weight"} <= rows[0].keys()


def test_windows_that_differ_stay_apart(task: Task) -> None:
    """Words and texts are cut into windows in other places."""
    text = " ".join(["anna met ben in oslo"] * 8)
    rows = task.encode(task.read_input(text, where="here:1"))
    for name in task.tasks:
        alone = task.tasks[name].encode(task.tasks[name].read_input(text, where="here:1"))
        mine = [row["input_ids"] for row in rows if f"{name}.part" in row]
        assert len(mine) == len(alone)
        assert all(np.array_equal(one, other["input_ids"]) for one, other in zip(mine, alone, strict=True))


def test_a_share_is_the_batch_that_the_task_by_itself_has(task: Task) -> None:
    rows = [feature for example in examples() for feature in task.encode(example)]
    batch = task.collate(rows, range(5))
    share = batch.shares["mood"]
    one = task.tasks["mood"]
    own = [one.encode(Example(row["mood"], Origin("rows", 0)))[0] for row in ROWS[2:]]
    alone = one.collate(own, [2, 3, 4])
    assert share.rows.tolist() == [2, 3, 4] and share.num_examples == 3
    for name, tensor in {**alone.inputs, **alone.targets}.items():
        assert torch.equal({**share.batch.inputs, **share.batch.targets}[name], tensor), name


@pytest.mark.parametrize("cuts", [[[0, 1], [2, 3, 4]], [[4], [0, 3], [1, 2]]])
def test_the_gradient_does_not_depend_on_the_cut_into_micro_batches(
    tiny_encoder: Path, task: Task, cuts: list[list[int]]
) -> None:
    model = build_joint(ModelConfig(path=str(tiny_encoder)), task, seed=0).model.eval()
    whole, expected = gradients(task, model, [[0, 1, 2, 3, 4]])
    loss, found = gradients(task, model, cuts)
    assert loss == pytest.approx(whole, rel=1e-5)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_loss_is_the_mean_of_each_task_by_its_examples_and_weight(tiny_encoder: Path) -> None:
    """2 examples of names, 3 of mood with weight 2: (2 * names + 3 * 2 * mood) / 5."""
    task = new_task(tiny_encoder, weights={"mood": 2.0})
    model = build_joint(ModelConfig(path=str(tiny_encoder)), task, seed=0).model.eval()
    both, _ = gradients(task, model, [[0, 1, 2, 3, 4]])
    names, _ = gradients(task, model, [[0, 1]])
    mood, _ = gradients(task, model, [[2, 3, 4]])
    assert both == pytest.approx((2 * names + 3 * mood) / 5, rel=1e-5)
    plain = new_task(tiny_encoder)
    assert mood == pytest.approx(2 * gradients(plain, model, [[2, 3, 4]])[0], rel=1e-5)


def test_a_task_without_examples_has_no_scores(task: Task) -> None:
    """It would be 0.0 for all of them, as if every answer were wrong."""
    (metric,) = task.metrics()
    assert {"names/entity_f1", "mood/f1_macro", "mean_score"} <= metric.compute().values.keys()
    metric.update({"mood": "good"}, {"mood": {"label": "good", "scores": {"good": 0.9, "bad": 0.1}}})
    scores = metric.compute()
    assert not any(name.startswith("names/") for name in scores.values)
    assert scores.values["mean_score"] == scores.values["mood/f1_macro"] > 0
    assert all(table.title.startswith("mood") for table in scores.tables)


def test_the_loss_chooses_where_a_task_has_no_score() -> None:
    tasks = {"names": {"name": "ner"}, "answers": {"name": "generate", "generate_in_evaluation": False}}
    assert isinstance(Joint(parse(JointConfig, {"name": "joint", "tasks": tasks})), JointByLoss)
    assert Joint(parse(JointConfig, {"name": "joint", "tasks": tasks})).main_metric == "loss"


@pytest.mark.parametrize("tasks", [{}, {"one": {"name": "ner"}}, {"a b": {"name": "ner"}, "c": {"name": "ner"}}])
def test_too_few_and_ill_named_tasks_are_refused(tasks: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Joint(parse(JointConfig, {"name": "joint", "tasks": tasks}))


def test_names_that_torch_needs_itself_are_refused() -> None:
    names = [name for name in dir(torch.nn.ModuleDict()) if name.isidentifier()]
    assert {"type", "training", "values", "_modules"} <= set(names)
    for name in names:
        with pytest.raises(ConfigError, match="no task can be named"):
            Joint(parse(JointConfig, {"name": "joint", "tasks": {name: {"name": "ner"}, "c": {"name": "ner"}}}))


@pytest.mark.parametrize("heads", ["[]", '["a", "../b"]', '"ab"'])
def test_a_damaged_list_of_heads_is_named(tmp_path: Path, heads: str) -> None:
    state = '"format": 1, "task": {"name": "ner"}, "labels": [], "max_length": 9'
    (tmp_path / "chainft.json").write_text(f'{{{state}, "heads": {heads}}}', encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"chainft\.json is damaged: heads"):
        load_run(tmp_path)


def test_a_head_of_another_kind_than_the_settings_is_named(tmp_path: Path) -> None:
    tasks = {"a": {"name": "ner"}, "b": {"name": "ner"}}
    state = {"format": 1, "task": {"name": "joint", "tasks": tasks}, "labels": [], "max_length": 9}
    (tmp_path / "chainft.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(ConfigError, match="another kind of answer"):
        load_run(tmp_path, parse(TaskConfig, {"name": "ner"}))
