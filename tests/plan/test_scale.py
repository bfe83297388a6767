"""The plan of many ranks: what each has, sends and holds, by hand and against the real cut."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest

from chainft.config.compose import compose_plan
from chainft.errors import ConfigError
from chainft.models.load import load_model
from chainft.plan.advice import nearest_change
from chainft.plan.budget import Budget, budget_of
from chainft.plan.followed import Asked, Followed, follow
from chainft.plan.machine import DEVICES, machine_of
from chainft.plan.optimizer_state import OptimizerForms
from chainft.plan.probe import new_task
from chainft.plan.scale import Place, Scale, make_scale
from chainft.stages.blocks import find_blocks
from chainft.stages.own import own_stages
from chainft.stages.spans import spans_between
from chainft.train.optimizer import build_optimizer

WIDTH, LENGTH, ROWS = 32, 40, 16


@pytest.fixture(scope="module")
def folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_encoder` with four blocks and no weights."""
    path = tmp_path_factory.mktemp("no-weights")
    for file in tiny_encoder.iterdir():
        if "token" in file.name:
            (path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tiny_encoder / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}), encoding="utf-8")
    return path


@cache
def followed(folder: Path, *words: str, task: str = "ner") -> Followed:
    settings = [f"task={task}", f"model={folder}", "model.pretrained=false", f"train.batch_size={ROWS}"]
    return follow(compose_plan([*settings, *words])[0], Asked(length=LENGTH))


def forms_of(one: Followed) -> OptimizerForms:
    return OptimizerForms(lambda module: build_optimizer(module, one.config.optimizer))


@cache
def scaled(folder: Path, *words: str, task: str = "ner") -> Scale:
    one = followed(folder, *(word for word in words if not word.startswith("plan.")), task=task)
    settings = compose_plan([f"task={task}", "plan.machine=a100", *words])[1]
    assert settings is not None
    machine = machine_of(settings, one.config.launch, DEVICES["a100"], mixed_precision="no")
    return make_scale(one, forms_of(one), machine)


def sent(place: Place, what: str) -> int:
    return sum(one.num_bytes for one in place.traffic if one.what == what)


def processes(count: int, *words: str) -> tuple[str, ...]:
    return (f"launch.num_processes={count}", *words)


def test_one_process_takes_what_its_own_plan_says(folder: Path) -> None:
    scale, budget = scaled(folder), plan_of_one(folder)
    assert scale.worst.memory.total == budget.peak.total
    assert scale.places[0].traffic == ()
    flops = budget.total.flops_forward + budget.total.flops_backward
    assert scale.passes_s == pytest.approx(flops / scale.machine.rate)


def plan_of_one(folder: Path) -> Budget:
    return budget_of(followed(folder), forms_of(followed(folder)))


def test_copies_sum_their_gradients_in_a_ring(folder: Path) -> None:
    scale = scaled(folder, *processes(4))
    memory = scale.places[0].memory
    assert memory.weights == plan_of_one(folder).total.memory.weights
    assert sent(scale.places[0], "gradients") == round(2 * 3 / 4 * memory.gradients)
    assert scale.num_micro_batches * scale.micro_batch_size * 4 == ROWS


def test_shards_take_a_part_of_what_copies_take(folder: Path) -> None:
    copies, shards = scaled(folder, *processes(4)), scaled(folder, *processes(4, "launch.fsdp=true"))
    for part in ("weights", "gradients", "optimizer"):
        whole, mine = getattr(copies.places[0].memory, part), getattr(shards.places[0].memory, part)
        assert whole / 4 <= mine < 0.3 * whole, part
    assert shards.worst.memory.total < copies.worst.memory.total
    # Whole weights before the forward pass, blocks once more before the backward pass.
    weights = copies.places[0].memory.weights
    assert 3 / 4 * weights < sent(shards.places[0], "weights") < 2 * 3 / 4 * weights
    assert sent(shards.places[0], "gradients") == round(3 / 4 * weights)


def test_weights_that_stay_gathered_are_sent_once_and_take_more(folder: Path) -> None:
    shards = scaled(folder, *processes(4, "launch.fsdp=true"))
    stay = scaled(folder, *processes(4, "launch.fsdp=true", "launch.reshard_after_forward=false"))
    assert sent(stay.places[0], "weights") < sent(shards.places[0], "weights")
    assert stay.worst.memory.total > shards.worst.memory.total


def test_every_micro_batch_gathers_weights_anew(folder: Path) -> None:
    one = scaled(folder, *processes(2, "launch.fsdp=true"))
    four = scaled(folder, *processes(2, "launch.fsdp=true", "train.micro_batch_size=2"))
    assert (one.num_micro_batches, four.num_micro_batches) == (1, 4)
    assert sent(four.places[0], "weights") == pytest.approx(4 * sent(one.places[0], "weights"), abs=4)


PIPELINE = ("launch.pipeline=2", "train.micro_batch_size=2")


def test_places_have_the_parameters_of_the_real_cut(folder: Path) -> None:
    scale = scaled(folder, *processes(2, *PIPELINE))
    task = new_task(followed(folder).config, 2)
    for number, place in enumerate(scale.places):
        model = load_model(followed(folder).config.model, task, seed=0).model
        spans = [*spans_between([0, 2, find_blocks(model).num_blocks])]
        own_stages(model, spans, [number])
        assert place.num_parameters == sum(one.numel() for one in model.parameters())


def test_hidden_states_go_up_and_gradients_down(folder: Path) -> None:
    scale = scaled(folder, *processes(4, *PIPELINE))
    assert scale.num_micro_batches == ROWS // 2 // 2
    size = scale.num_micro_batches * 2 * LENGTH * WIDTH * 4
    lower, upper = scale.places
    assert (lower.ranks, upper.ranks) == ((0, 1), (2, 3))
    assert (sent(lower, "hidden states"), sent(upper, "gradients of hidden states")) == (size, size)
    assert sent(lower, "gradients of hidden states") == sent(upper, "hidden states") == 0


def test_nothing_comes_back_to_a_frozen_beginning(folder: Path) -> None:
    frozen = ("chain.split=2", "chain.stages.stage0.frozen=true")
    lower, upper = scaled(folder, *processes(2, *PIPELINE, *frozen)).places
    assert sent(upper, "gradients of hidden states") == 0
    assert lower.memory.gradients == lower.memory.optimizer == 0
    assert lower.compute_s < 0.5 * upper.compute_s


def test_the_link_is_that_of_the_ranks(folder: Path) -> None:
    """Copies of a place are neighbours, so that what they exchange stays inside a machine of two devices."""
    scale = scaled(folder, *processes(4, *PIPELINE, "plan.devices_per_machine=2"))
    links = {one.what: one.link for place in scale.places for one in place.traffic}
    assert links == {"gradients": "inside", "hidden states": "between", "gradients of hidden states": "between"}


def test_the_bubble_is_that_of_the_textbook(folder: Path) -> None:
    """(P - 1) / (m + P - 1) of the time (Huang et al. 2019) where places cost the same and links nothing."""
    words = processes(2, *PIPELINE, "plan.inside_latency_s=0", "plan.inside_bytes_per_s=1e30")
    scale = scaled(folder, *words)
    assert scale.num_micro_batches == 8
    assert scale.bubble_fraction == pytest.approx(1 / 9, rel=0.05)  # The head makes the upper place a little slower.


def test_gpipe_holds_every_micro_batch(folder: Path) -> None:
    some = scaled(folder, *processes(2, *PIPELINE)).places[0].memory
    every = scaled(folder, *processes(2, *PIPELINE, "launch.schedule=gpipe")).places[0].memory
    assert every.activations > 3 * some.activations
    assert every.weights == some.weights


def test_recomputed_activations_take_less_memory_and_more_time(folder: Path) -> None:
    plain = scaled(folder, *processes(2, *PIPELINE))
    recomputed = scaled(folder, *processes(2, *PIPELINE, "train.gradient_checkpointing=true"))
    assert recomputed.places[0].memory.activations < plain.places[0].memory.activations
    assert recomputed.places[0].compute_s == pytest.approx(4 / 3 * plain.places[0].compute_s, rel=0.02)
    # What is computed twice counts once.
    ratio = recomputed.flop_utilisation * recomputed.step_s / (plain.flop_utilisation * plain.step_s)
    assert ratio == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("schedule", ["interleaved_1f1b", "zbv"])
def test_schedules_with_two_stages_a_place_are_planned(folder: Path, schedule: str) -> None:
    scale = scaled(folder, *processes(2, *PIPELINE, f"launch.schedule={schedule}"))
    assert [len(place.blocks) for place in scale.places] == [2, 2]
    assert sum(place.num_parameters for place in scale.places) == plan_of_one(folder).total.num_parameters


def test_tied_embeddings_are_summed_by_both_places(tiny_decoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_decoder, tmp_path / "tied")
    config = json.loads((tiny_decoder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "tied" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}), "utf-8")
    lower, upper = scaled(tmp_path / "tied", *processes(2, *PIPELINE), task="generate").places
    # An all-reduce of two sends as many bytes as the tensor has.
    assert sent(lower, "shared parameters") == sent(upper, "shared parameters") == config["vocab_size"] * WIDTH * 4


def test_a_pipeline_longer_than_the_model_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="needs 8 stages, and the model has 4 blocks"):
        scaled(folder, *processes(8, "launch.pipeline=8"))


def test_the_nearest_change_makes_it_fit(folder: Path) -> None:
    one = followed(folder, *processes(2))
    whole = scaled(folder, *processes(2))
    memory = whole.worst.memory.total - 1

    def planned(config: object) -> Scale:
        changed = follow(config, Asked(length=LENGTH))  # type: ignore[arg-type]
        settings = compose_plan(["task=ner", f"plan.memory_gib={memory / 2**30}"])[1]
        assert settings is not None
        machine = machine_of(settings, changed.config.launch, DEVICES["a100"], mixed_precision="no")
        return make_scale(changed, forms_of(changed), machine)

    change = nearest_change(one, planned)  # type: ignore[arg-type]
    assert change is not None and change.words == ("train.micro_batch_size=4",) and change.total <= memory
