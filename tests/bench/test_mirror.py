"""What the Trainer baseline cannot mirror is refused by name, before data are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainft.bench.mirror import check_mirrored
from chainft.cli.bench import run
from chainft.config.compose import compose
from chainft.errors import ConfigError

STAGES = ["chain.split=2"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["task=ner", "task.class_weights=balanced"], "task.class_weights"),
        (["task=classify", "task.label_smoothing=0.1"], "task.label_smoothing"),
        (["task=classify", "task.multi_label=true"], "task.multi_label"),
        (["task=ner", "optimizer=lion"], "optimizer.name"),
        (["task=ner", "optimizer.options.amsgrad=true"], "optimizer.options.amsgrad"),
        (["task=ner", "scheduler=polynomial"], "scheduler.name"),
        (["task=ner", "scheduler.min_lr_fraction=0.1"], "scheduler.min_lr_fraction"),
        (["task=ner", "train.mixed_precision=fp16"], "train.mixed_precision"),
        (["task=ner", "train.micro_batch_size=4"], "train.micro_batch_size"),
        (["task=ner", "evaluation.every=5"], "evaluation.every"),
        (["task=ner", "evaluation.metric=token_accuracy"], "evaluation.metric"),
        (["task=ner", "model.head=new"], "model.head"),
        (["task=ner", "run=somewhere"], "run"),
        (["task=classify", "data=csv", "data.train=x.csv", "data.columns.text_pair=b"], "data.columns.text_pair"),
        (["task=ner", "chain=cascade"], "chain.stages.first.model"),
        (["task=ner", *STAGES, "chain.stages.stage0.lora.r=4"], "chain.stages.stage0.lora"),
        (["task=ner", *STAGES, "chain.stages.stage1.lr=1e-4"], "chain.stages.stage1.lr"),
        (["task=ner", *STAGES, "chain.stages.stage1.frozen=true"], "chain.stages.stage1.frozen"),
        (["task=ner", *STAGES, "chain.stages.stage0.frozen=LayerNorm"], "chain.stages.stage0.frozen"),
        (["task=generate"], "task"),
        (["task=joint"], "task"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_trainer_cannot_mirror_is_refused(words: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_mirrored(compose(words).config, 30)
    assert caught.value.problems[0].slug == "not-mirrored"
    assert key in [problem.key for problem in caught.value.problems]
    assert all(problem.help for problem in caught.value.problems)


@pytest.mark.parametrize(
    "words",
    [
        ["task=ner"],
        ["task=classify", "optimizer=adamw", "optimizer.options.betas=[0.9,0.98]", "train.max_grad_norm=null"],
        ["task=ner", "chain=frozen_base", "scheduler=cosine", "scheduler.warmup_steps=3"],
        ["task=ner", "evaluation.patience=2", "evaluation.metric=entity_f1", "train.padding_free=false"],
    ],
    ids=" ".join,
)
def test_what_it_mirrors_is_taken(words: list[str]) -> None:
    check_mirrored(compose(words).config, 30)


def test_warmup_must_end_within_the_steps() -> None:
    with pytest.raises(ConfigError, match="not less than the 30 steps"):
        check_mirrored(compose(["task=ner", "scheduler.warmup_steps=40"]).config, 30)


@pytest.mark.parametrize("flags", [["--steps", "1"], ["--steps", "many"], ["--rounds", "0"]], ids=" ".join)
def test_a_wrong_flag_is_refused(flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a whole number"):
        run(["task=ner", *flags])
