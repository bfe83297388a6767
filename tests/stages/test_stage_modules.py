"""Stages that are modules of plug-ins: in a chain they train, freeze, resume, are saved, read again, and planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification

from chainft.cli.config import lines
from chainft.cli.main import main
from chainft.config.chain import StageKindConfig
from chainft.config.compose import compose
from chainft.errors import ChainftError, ConfigError
from chainft.infer.trained import load_run
from chainft.models.recurrent import BothWays
from chainft.plan.followed import Asked, follow
from chainft.plan.probe import new_skeleton, new_task
from chainft.plan.trace import Tracker
from chainft.stage_kinds.base import Stage
from chainft.stage_kinds.recurrent import Recurrent, RecurrentConfig
from chainft.stages.stage_modules import make_stage
from chainft.train.chain_check import check_chain
from chainft.train.faults import InjectedError
from chainft.train.session import run_training

Words = Callable[..., list[str]]
SETTINGS = {"name": "recurrent", "hidden_size": 5, "num_layers": 2, "dropout": 0.0}
MKLDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.fixture
def words(tiny_encoder: Path, ner_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Words:
    """Those of a short run on `chain=recurrent`, with further ones."""
    monkeypatch.chdir(tmp_path)
    plain = ["task=ner", *ner_files, f"model={tiny_encoder}", "chain=recurrent", "chain.stages.top.kind.hidden_size=6"]
    return lambda *more: [*plain, "optimizer.lr=0.01", "train.batch_size=8", "report.enabled=false", *more]


def train(words: list[str], run: str = "run", steps: int = 3) -> dict[str, Any]:
    return run_training(compose([*words, f"run={run}", f"train.max_steps={steps}"]))


def losses(run: str) -> list[float]:
    lines = Path(run, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [one["loss"] for one in map(json.loads, lines) if one["kind"] == "train"]


# The module -----------------------------------------------------------------------------------------


def test_recurrent_layers_are_torchs_own_in_both_directions_for_each_row_without_its_padding() -> None:
    """Against torch's bidirectional LSTM of two layers, with the same weights, a row at a time."""
    ours = make_stage(SETTINGS, 3, 10)
    assert isinstance(ours, BothWays)
    theirs = nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    for number in range(2):
        for direction, layers in (("", ours.forwards), ("_reverse", ours.backwards)):
            for name, value in layers[number].named_parameters():
                getattr(theirs, name.replace("l0", f"l{number}") + direction).data.copy_(value)
    hidden = torch.randn(2, 4, 3)
    found = ours(hidden, MASK)
    for row, length in enumerate((4, 2)):
        expected, _ = theirs(hidden[row : row + 1, :length])
        torch.testing.assert_close(found[row : row + 1, :length], expected)
        assert not found[row, length:].any()


def test_padding_on_the_left_is_left_out_too() -> None:
    module = make_stage(SETTINGS, 3, 10)
    hidden = torch.randn(1, 4, 3)
    found = module(hidden, torch.tensor([[0, 0, 1, 1]]))
    torch.testing.assert_close(found[:, 2:], module(hidden[:, 2:], torch.ones(1, 2, dtype=torch.long)))


@pytest.mark.parametrize(("given", "width"), [({}, 8), ({"hidden_size": 3}, 6)])
def test_it_is_as_wide_as_what_it_reads_unless_units_are_given(given: dict[str, Any], width: int) -> None:
    stage = Recurrent(RecurrentConfig(**given))
    assert stage.width(8) == width
    assert stage.build(8)(torch.zeros(1, 2, 8), torch.ones(1, 2)).shape == (1, 2, width)


# In a chain -----------------------------------------------------------------------------------------


def test_a_run_trains_it_under_the_head_saves_it_and_reads_it_again(words: Words) -> None:
    train(words())
    trained: Any = load_run(Path("run")).model
    head = trained.stages["top"]
    assert head.classifier.weight.shape == (7, 12)
    config = json.loads(Path("run", "model", "config.json").read_text(encoding="utf-8"))
    kind = config["stages"]["top"]["model"]["kind"]
    assert kind == {"name": "recurrent", "hidden_size": 6, "num_layers": 1, "dropout": 0.1}
    inputs = {"input_ids": torch.tensor([[2, 7, 8, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    again = AutoModelForTokenClassification.from_pretrained(Path("run", "model")).eval()
    assert torch.equal(again(**inputs).logits, trained(**inputs).logits)
    loss = again(**inputs, labels=torch.tensor([[-100, 1, 0, -100]])).loss
    logits = again(**inputs).logits[0, 1:3]
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, torch.tensor([1, 0])))


def test_a_resumed_run_goes_on_bit_for_bit(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = words("checkpoint.every=2", "chain.stages.top.kind.dropout=0.3")
    train(settings, "whole", 4)
    monkeypatch.setenv("CHAINFT_TESTING", "1")
    monkeypatch.setenv("CHAINFT_FAULT", "raise@step=4,phase=backward")
    with pytest.raises(InjectedError):
        train(settings, "cut", 4)
    monkeypatch.delenv("CHAINFT_FAULT")
    assert main(["train", "run=cut", "resume=true"]) == 0
    assert losses("cut") == losses("whole")
    weights = [Path(run, "model", "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_frozen_it_stays_as_it_was_drawn(words: Words) -> None:
    train(words("chain.stages.top.frozen=blocks", "chain.stages.top.lr=null", "seed=3"), steps=1)
    train(words("chain.stages.top.frozen=blocks", "chain.stages.top.lr=null", "seed=3"), "longer", steps=3)
    one, other = (dict(load_run(Path(run)).model.named_parameters()) for run in ("run", "longer"))
    inside = [name for name in one if ".blocks.0.module." in name]
    assert inside and all(torch.equal(one[name], other[name]) for name in inside)
    assert not torch.equal(one["stages.top.classifier.weight"], other["stages.top.classifier.weight"])


def test_between_models_with_heads_recomputation_and_sharing_the_stages_compute_what_the_whole_does(
    words: Words, tiny_encoder: Path
) -> None:
    """Two modules that share their parameters, one with an auxiliary head, and a model that reads all before it."""
    more = [f"chain.stages.last.model={tiny_encoder}", "chain.stages.last.receive=all", "chain.stages.top.lr=null"]
    more += ["chain.stages.again.kind.name=recurrent", "chain.stages.again.kind.hidden_size=16"]
    more += ["chain.stages.top.kind.hidden_size=16", "chain.stages.again.share.with=top"]
    more += ["chain.stages.top.auxiliary.weight=0.5", "chain.stages.again.gradient_checkpointing=true"]
    config = compose(words("chain.order=[encoder,top,again,last]", *more)).config
    chain, checks = check_chain(config, progress=lambda *_, **__: None)
    assert [check.what for check in checks if not check.passed] == []
    names = [part["name"] for part in chain.describe()]
    assert names == ["encoder", "top", "again", "last"]
    parameters = dict(chain.model.named_parameters(remove_duplicate=False))
    name = "stages.{}.blocks.0.module.forwards.0.weight_ih_l0"
    assert parameters[name.format("again")] is parameters[name.format("top").replace("top.", "top.body.")]


@pytest.mark.parametrize("task", ["classify", "qa"])
def test_other_tasks_have_their_head_on_it_too(
    task: str, words: Words, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = [word for word in words() if word.startswith("chain")]
    train(
        [f"task={task}", *chain, f"model={tiny_encoder}", "report.enabled=false", "data.max_train_samples=8"], steps=1
    )
    assert type(load_run(Path("run")).model).__name__.startswith("LinkedFor")


def test_a_plan_knows_its_parameters(words: Words) -> None:
    config = compose(words()).config
    planned = new_skeleton(config, new_task(config, 3))
    shapes = {name: list(p.shape) for name, p in planned.named_parameters() if ".blocks.0.module." in name}
    assert len(shapes) == 8 and shapes["stages.top.body.blocks.0.module.backwards.0.weight_hh_l0"] == [24, 6]


@pytest.mark.skipif(not MKLDNN, reason="torch computes an LSTM by other operations here")
def test_a_plan_counts_the_products_of_an_lstm_in_both_passes() -> None:
    """2 directions, 2 x 3 tokens, weights 4 x 5 x (8 + 5), a multiplication and an addition; twice as much backward."""
    module = BothWays(8, 5, depth=1, dropout=0.0)
    with Tracker(module.parameters()) as tracker:
        found = module(torch.randn(2, 3, 8, requires_grad=True), torch.ones(2, 3, dtype=torch.long))
        tracker.begin_backward()
        found.sum().backward()
    forward = 2 * 2 * 3 * (4 * 5 * (8 + 5)) * 2
    assert {key: count for key, count in tracker.trace.flops.items() if count} == {
        (-1, "forward"): forward,
        (-1, "backward"): 2 * forward,
    }


@pytest.mark.skipif(not MKLDNN, reason="torch computes an LSTM by other operations here")
def test_a_plan_foresees_what_an_lstm_keeps(words: Words) -> None:
    """Twice the rows keep twice as much, and what it keeps is never less than its gates: 2 x 4 x 6 numbers a token."""
    kept = []
    for rows in (8, 16):
        asked = [f"train.batch_size={rows}" if word == "train.batch_size=8" else word for word in words()]
        kept.append(follow(compose(asked).config, Asked(length=64)).step.kept[1])
    assert kept[1] == pytest.approx(2 * kept[0], rel=1e-3) and kept[0] >= 8 * 64 * 4 * 48


# What is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "key", "cause"),
    [
        (["chain.stages.top.kind.name=recurent"], "chain.stages.top.kind.name", "there are: recurrent"),
        (["chain.stages.top.kind.hidden_size=0"], "chain.stages.top.kind.hidden_size", "is outside"),
        (["chain.stages.top.kind.cell=gru"], "chain.stages.top.kind.cell", "is not a setting"),
        (["chain.order=[top,encoder]"], "chain.stages.top.kind", "'top' is the first stage"),
        (["chain.stages.top.model=x"], "chain.stages.top.kind", "the stage has a model too"),
        (["chain.stages.top.residual=true"], "chain.stages.top.residual", "no embeddings of its own"),
        (["chain.stages.top.from=run"], "chain.stages.top.from", "weights start at random"),
        (["chain.stages.top.blocks=:2"], "chain.stages.top.blocks", "no effect"),
        (["chain.stages.top.repeat=2"], "chain.stages.top.repeat", "can be repeated"),
        (["launch.fsdp=true", "launch.num_processes=2"], "chain.stages.top.kind", "launch.fsdp = true"),
        (["launch.pipeline=2", "launch.num_processes=2"], "chain.stages", "launch.pipeline"),
        (["cache.prefix=true"], "cache.prefix", "is trained"),
        (["head=mlp"], "head.name", "linked models"),
        (["task=generate", "data=starter_generate"], "chain.stages.top.kind", "writes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_it_has_no_place_is_told_by_key_before_anything_is_read(
    words: Words, more: list[str], key: str, cause: str
) -> None:
    kept = [word for word in words() if not (more[0].startswith("task=") and word.startswith(("task=", "data")))]
    with pytest.raises(ConfigError) as caught:
        compose([*kept, *more])
    assert any(one.key == key and cause in one.message for one in caught.value.problems), caught.value.render()


class Wrong(Stage):
    """Makes what a test says."""

    config_class = StageKindConfig
    made: Any = None
    given: Any = None

    def width(self, width_in: int) -> int:
        return width_in if self.given is None else self.given

    def build(self, width_in: int) -> nn.Module:
        return self.made(width_in)  # type: ignore[no-any-return]


class Blind(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden + hidden.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("made", "given", "cause"),
    [
        (lambda width: None, None, "build() gave a NoneType, not a torch.nn.Module"),
        (lambda width: nn.Linear(width, width), None, "of hidden states [2, 3, 32] it fails"),
        (Blind, None, "what stands in padding changes what it gives for tokens"),
        (lambda width: BothWays(width, 3, depth=1, dropout=0.0), None, "it makes [2, 3, 6], not [2, 3, 32]"),
        (Blind, 0, "width() gave 0, not a number of at least 1"),
        (Blind, "wide", "width() gave 'wide'"),
    ],
    ids=["no module", "no mask", "reads padding", "other width", "zero", "text"],
)
def test_a_broken_one_is_named_with_the_key_where_it_is_chosen(
    words: Words, monkeypatch: pytest.MonkeyPatch, made: Any, given: Any, cause: str
) -> None:
    composed = compose(words())
    monkeypatch.setattr(Wrong, "made", staticmethod(made))
    monkeypatch.setattr(Wrong, "given", given)
    monkeypatch.setattr("chainft.stages.stage_modules.find", lambda *_, **__: Wrong)
    with pytest.raises(ConfigError) as caught:
        run_training(composed)
    (problem,) = caught.value.problems
    assert cause in problem.message and "stage 'recurrent' cannot be used" in problem.message
    assert problem.key == "chain.stages.top.kind.name" and problem.slug == "broken-plugin"


def test_what_a_saved_config_says_of_it_is_not_trusted(words: Words) -> None:
    train(words(), steps=1)
    file = Path("run", "model", "config.json")
    state = json.loads(file.read_text(encoding="utf-8"))
    state["stages"]["top"]["model"]["kind"] = {"name": "os.system"}
    file.write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(ChainftError, match=r"stage 'os\.system' does not exist; there are: recurrent"):
        load_run(Path("run"))


def test_its_settings_are_explained() -> None:
    assert "chain.stages.NAME.kind.name must be given" in "\n".join(lines("chain.stages.NAME.kind"))
    assert "Units of each direction" in "\n".join(lines("chain.stages.NAME.kind.hidden_size"))
