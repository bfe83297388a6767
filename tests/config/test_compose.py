"""Words and files become one checked run; what cannot is said with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainft.config import search
from chainft.config.compose import compose, compose_draft, load_run_config
from chainft.config.document import to_yaml
from chainft.config.run import RunConfig
from chainft.errors import ConfigError, Problem

RUN = ["task=toy", "data.name=toy"]


def write(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def run(*words: str) -> RunConfig:
    return compose([*RUN, *words]).config


def problems(*words: str) -> dict[str | None, Problem]:
    with pytest.raises(ConfigError) as caught:
        compose(words)
    return {problem.key: problem for problem in caught.value.problems}


# What words mean


def test_defaults_are_those_of_the_dataclasses() -> None:
    config = run("model.path=some-model")
    assert config.optimizer.lr == 5e-5
    assert config.train.batch_size == 32


def test_starter_model_is_the_default_and_brings_its_rate() -> None:
    config = run()
    assert (config.model.path, config.optimizer.lr) == ("starter", 3e-4)


@pytest.mark.parametrize(
    "path", ["bert-base-cased", "google/bert_uncased_L-2", "./runs/x", "/tmp/with space/model", "a'b", "runs/2026_ner"]
)
def test_model_that_is_no_config_is_a_path_without_the_starters_rate(path: str) -> None:
    escaped = path.replace("'", "\\'")
    config = run(f"model='{escaped}'")
    assert (config.model.path, config.optimizer.lr) == (path, 5e-5)


def test_model_path_alone_leaves_the_starters_rate_too() -> None:
    assert run("model.path=bert-base-cased").optimizer.lr == 5e-5


@pytest.mark.parametrize("words", [["task=generate"], ["++task.name=generate"]])
def test_generate_has_a_decoder_as_default(words: list[str], toy: Path) -> None:
    assert compose([*words, "data=jsonl", "data.train=x.jsonl"]).config.model.path == "smollm2"
    write(toy, "conf/experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /task: generate\n")
    assert compose(["experiment=mine"]).config.model.path == "smollm2"
    assert compose([*words, "data=jsonl", "data.train=x.jsonl", "model=starter"]).config.model.path == "starter"


def test_other_settings_of_the_model_keep_the_starter() -> None:
    config = run("model.max_length=64")
    assert (config.model.path, config.model.max_length) == ("starter", 64)


def test_chosen_optimizer_wins_over_the_starters_rate_and_words_over_both() -> None:
    assert run("optimizer=sgd").optimizer.lr == 0.02
    assert run("optimizer=sgd", "optimizer.lr=0.5").optimizer.lr == 0.5
    assert run("optimizer=adamw").optimizer.lr == 3e-4


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_plus_signs_make_no_difference(prefix: str) -> None:
    assert run(f"{prefix}optimizer.lr=0.25", f"{prefix}scheduler=cosine").optimizer.lr == 0.25


def test_whole_mapping_may_be_given_in_one_word() -> None:
    config = run("optimizer={lr: 0.1, options: {eps: 1e-6}}")
    assert config.optimizer.options == {"eps": 1e-6}
    assert config.optimizer.weight_decay == 0.01


def test_taking_away_what_a_file_set_brings_the_default_back() -> None:
    assert run("~optimizer.lr").optimizer.lr == 5e-5


def test_null_chooses_no_config_of_a_group() -> None:
    assert run("optimizer=null").optimizer.name == "adamw"


def test_words_are_kept_for_the_run_folder() -> None:
    assert compose([*RUN, "seed=3"]).overrides == (*RUN, "seed=3")


def test_a_comma_alone_is_a_comma() -> None:
    assert run("data.separator=,").data.separator == ","  # type: ignore[attr-defined]


def test_run_that_resume_lacks_is_all_that_is_missing() -> None:
    found = problems("resume=true")
    assert list(found) == ["resume"]
    assert found["resume"].help == "add run=FOLDER"


# Data that is not named


def starter(folder: Path) -> None:
    write(folder, "conf/data/starter_toy.yaml", "name: toy\ntrain: starter.txt\n")


def test_task_brings_its_starter_data(toy: Path) -> None:
    starter(toy)
    assert compose(["task=toy"]).config.data.train == "starter.txt"


def test_settings_of_the_data_keep_the_starter_data(toy: Path) -> None:
    starter(toy)
    config = compose(["task=toy", "data.max_train_samples=5"]).config
    assert (config.data.train, config.data.max_train_samples) == ("starter.txt", 5)


def test_given_files_never_mix_with_starter_data(toy: Path) -> None:
    starter(toy)
    found = problems("task=toy", "data.train=mine.xyz")
    assert "mine.xyz" in found["data"].message
    assert "data=conll|csv" in (found["data"].help or "")


def test_task_without_starter_data_asks_for_data() -> None:
    assert "there are:" in problems("task=toy")["data"].message


# The search path


def test_users_conf_wins_over_ours_and_its_place_is_told(toy: Path) -> None:
    write(toy, "conf/model/starter.yaml", "path: mine\n")
    write(toy, "conf/optimizer/mine.yaml", "name: adamw\nlrr: 3\n")
    assert run().model.path == "mine"
    problem = problems(*RUN, "optimizer=mine")["optimizer.lrr"]
    assert problem.where == "conf/optimizer/mine.yaml:2:1"
    assert problem.help == "did you mean 'optimizer.lr'?"


def test_config_dir_wins_over_conf(toy: Path) -> None:
    write(toy, "conf/optimizer/mine.yaml", "lr: 0.1\n")
    write(toy, "other/optimizer/mine.yaml", "lr: 0.2\n")
    composed = compose([*RUN, "optimizer=mine"], config_dir=toy / "other")
    assert composed.config.optimizer.lr == 0.2


def test_config_dir_that_is_no_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        compose(RUN, config_dir=Path("nowhere"))


def test_conf_of_another_program_is_left_alone(toy: Path) -> None:
    write(toy, "conf/nginx.yaml", "model: x\n")
    assert [folder.provider for folder in search.search_folders()] == ["chainft"]


def test_own_primary_config_needs_no_place_for_our_groups(toy: Path) -> None:
    write(toy, "conf/train.yaml", "defaults:\n  - optimizer: sgd\n  - _self_\nseed: 9\n")
    config = run("scheduler=cosine", "optimizer=lion")
    assert (config.seed, config.optimizer.name, config.scheduler.name) == (9, "lion", "cosine")
    assert config.model.path == "starter"


def test_another_primary_config_may_be_named(toy: Path) -> None:
    write(toy, "conf/mine.yaml", "seed: 11\n")
    write(toy, "conf/optimizer/x.yaml", "lr: 1\n")
    assert compose(RUN, config_name="mine").config.seed == 11
    with pytest.raises(ConfigError, match="there is no config 'other'"):
        compose(RUN, config_name="other")


def test_plugin_package_brings_configs(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(toy, "plug/conf/task/toyish.yaml", "name: toy\nscheme: iob2\n")
    monkeypatch.setattr(search, "plugin_folders", lambda: {"plug.conf": toy / "plug" / "conf"})
    composed = compose(["task=toyish", "data.name=toy"])
    assert composed.resolved["task"]["scheme"] == "iob2"


def test_experiment_is_a_whole_recipe_over_which_words_win(toy: Path) -> None:
    recipe = (
        "# @package _global_\ndefaults:\n  - override /optimizer: sgd\ntask: {name: toy}\ndata: {name: toy}\nseed: 5\n"
    )
    write(toy, "conf/experiment/mine.yaml", recipe)
    config = compose(["experiment=mine", "optimizer.lr=0.5"]).config
    assert (config.seed, config.optimizer.name, config.optimizer.lr) == (5, "sgd", 0.5)


def test_model_path_of_an_experiment_leaves_the_starter_out(toy: Path) -> None:
    write(toy, "conf/experiment/mine.yaml", "# @package _global_\nmodel: {path: other}\n")
    config = run("experiment=mine")
    assert (config.model.path, config.optimizer.lr) == ("other", 5e-5)


# Errors


@pytest.mark.parametrize(
    ("word", "key", "help"),
    [
        ("optim.lrr=3", "optim.lrr", "did you mean 'optimizer.lr'?"),
        ("learning_rate=3", "learning_rate", "did you mean 'optimizer.lr'?"),
        ("optimizer.momentum=0.9", "optimizer.momentum", "did you mean 'optimizer.options.momentum'?"),
        ("optimizer=sgdd", "optimizer", "did you mean 'sgd'?"),
        ("scheduler=cosin", "scheduler", "did you mean 'cosine'?"),
        ("data=my.train.txt", "data", "files are given by data.train=my.train.txt data.validation=... data.test=..."),
        ("tracker.name=tensorbord", "tracker.name", "did you mean 'tensorboard'?"),
        ("train.batch_sise=3", "train.batch_sise", "did you mean 'train.batch_size'?"),
    ],
)
def test_wrong_word_is_named_with_the_nearest_right_one(word: str, key: str, help: str) -> None:
    """fault 1"""
    problem = problems(*RUN, word)[key]
    assert (problem.where, problem.help) == (word, help)


def test_word_over_a_file_is_the_place(toy: Path) -> None:
    write(toy, "conf/experiment/mine.yaml", "# @package _global_\nseed: 3\noptimizer:\n  lr: -1\n")
    found = problems(*RUN, "experiment=mine", "seed=-1")
    assert found["seed"].where == "seed=-1"
    assert found["optimizer.lr"].where == "conf/experiment/mine.yaml:4:3"


def test_unknown_group_value_lists_the_values() -> None:
    """fault 1"""
    message = problems(*RUN, "optimizer=foo")["optimizer"].message
    assert message == "optimizer 'foo' does not exist; there are: adafactor, adamw, lion, rmsprop, sgd"


def test_unknown_group_value_in_a_file_is_placed(toy: Path) -> None:
    """fault 1"""
    write(toy, "conf/experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /optimizer: addam\n")
    problem = problems(*RUN, "experiment=mine")["optimizer"]
    assert problem.help == "did you mean 'adamw'?"


@pytest.mark.parametrize(
    ("words", "key", "slug"),
    [
        (["optimizer.lr=-1"], "optimizer.lr", "out-of-range"),
        (["optimizer.lr=abc"], "optimizer.lr", "wrong-type"),
        (['optimizer.lr="1e-5 "'], "optimizer.lr", "wrong-type"),
        (["optimizer.lr=inf"], "optimizer.lr", "out-of-range"),
        (["train.batch_size=0"], "train.batch_size", "out-of-range"),
        (["train=3"], "train", "wrong-type"),
        (["model.path.x=3"], "model.path", "wrong-type"),
        (["checkpoint.max_checkpoints=0"], "checkpoint.max_checkpoints", "out-of-range"),
        (["seed=???"], "seed", "missing-value"),
    ],
)
def test_wrong_value_is_placed_at_its_word(words: list[str], key: str, slug: str) -> None:
    """fault 2"""
    problem = problems(*RUN, *words)[key]
    assert (problem.slug, problem.where) == (slug, words[0])


def test_all_violations_come_at_once_rules_too() -> None:
    """fault 5"""
    found = problems(*RUN, "lr=1", "optimizer.lr=-1", "train.micro_batch_size=64", "scheduler.power=3", "resume=true")
    assert {"lr", "optimizer.lr", "train.micro_batch_size", "scheduler.power", "resume"} == set(found)


@pytest.mark.parametrize(
    ("word", "word_in_message"),
    [
        ("ner", "not of the form key=value"),
        ("--fast", "not of the form key=value"),
        ("optimizer.lr=[", "cannot read"),
        ("optimizer.lr=1e-4,3e-4", "several values"),
        ("seed=range(1,3)", "several values"),
        ("~train.batch_size", "Could not delete"),
        ("sweep=optuna", "no effect on a single run"),
        ("model@x=starter", "model"),
        ("=3", "not of the form key=value"),
    ],
)
def test_word_that_is_no_setting_is_refused_in_our_words(word: str, word_in_message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([*RUN, word])
    assert word_in_message in caught.value.problems[0].message


@pytest.mark.parametrize(
    ("text", "place"),
    [("lr:\n\t1\n", ":2:1"), ("lr: 1\nlr: 2\n", ":2:1"), ("", ""), ("- 1\n", ":1:1"), ("a: [\n", ":2:1")],
)
def test_broken_file_is_placed(toy: Path, text: str, place: str) -> None:
    """fault 3"""
    write(toy, "conf/optimizer/mine.yaml", text)
    with pytest.raises(ConfigError) as caught:
        compose([*RUN, "optimizer=mine"])
    assert caught.value.problems[0].where == f"conf/optimizer/mine.yaml{place}"


def test_file_with_a_bad_package_line_is_refused(toy: Path) -> None:
    write(toy, "conf/optimizer/mine.yaml", "# @package a b c\nlr: 1\n")
    with pytest.raises(ConfigError):
        compose([*RUN, "optimizer=mine"])


# Interpolations


def test_interpolation_reaches_defaults_that_no_file_has() -> None:
    assert run("evaluation.batch_size=${train.batch_size}").evaluation.batch_size == 32


def test_number_out_of_the_environment_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR", "2e-3")
    assert run("optimizer.lr=${oc.env:LR}").optimizer.lr == 2e-3


@pytest.mark.parametrize(
    ("words", "key", "message"),
    [
        (["optimizer.lr=${oc.env:NO_SUCH}"], "optimizer.lr", "'NO_SUCH' not found"),
        (["optimizer.lr=${train.bach_size}"], "optimizer.lr", "train.bach_size"),
        (["optimizer.lr=${nothing:x}"], "optimizer.lr", "nothing"),
        (["seed=${train.max_steps}", "train.max_steps=${seed}"], "seed", "seed -> train.max_steps"),
        (["seed=${seed}"], "seed", "seed -> seed"),
        (["seed=???"], "seed", "must be given"),
    ],
)
def test_what_cannot_be_resolved_is_named_with_its_chain(words: list[str], key: str, message: str) -> None:
    """fault 6"""
    found = [problem for name, problem in problems(*RUN, *words).items() if name in (key, "train.max_steps")]
    assert any(message in problem.message for problem in found)


def test_misspelt_reference_gets_a_hint() -> None:
    """fault 6"""
    assert problems(*RUN, "seed=${train.bach_size}")["seed"].help == "did you mean 'train.batch_size'?"


def test_secret_stays_an_interpolation_in_what_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 7"""
    monkeypatch.setenv("HF_TOKEN", "hf_topsecret")
    composed = compose([*RUN, "tracker.name=wandb", "tracker.project=${oc.env:HF_TOKEN}"])
    assert composed.config.tracker.project == "hf_topsecret"
    assert "hf_topsecret" not in to_yaml(composed.unresolved)
    assert composed.unresolved["tracker"]["project"] == "${oc.env:HF_TOKEN}"


def test_moment_is_fixed_in_what_is_saved() -> None:
    composed = compose([*RUN, "run=runs/${now:%Y}_x"])
    assert composed.unresolved["run"] == composed.config.run
    assert "${" not in str(composed.config.run)


# Saved runs


def test_saved_config_loads_to_the_same_run(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT", "p")
    composed = compose([*RUN, "tracker=wandb", "tracker.project=${oc.env:PROJECT}", "train.mixed_precision=no"])
    (toy / "config.yaml").write_text(to_yaml(composed.unresolved), encoding="utf-8")
    assert load_run_config(toy / "config.yaml") == composed.config


def test_saved_config_that_was_edited_wrongly_is_placed(toy: Path) -> None:
    data = compose(RUN).unresolved
    data["optimizer"]["lr"] = -1
    (toy / "config.yaml").write_text(to_yaml(data), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_run_config(toy / "config.yaml")
    assert str(caught.value.problems[0].where).startswith(str(toy / "config.yaml"))


def test_draft_keeps_the_sweep_apart() -> None:
    draft = compose_draft([*RUN, "sweep=optuna", "sweep.num_trials=3"])
    assert draft.sweep == {"name": "optuna", "num_trials": 3}
    assert "sweep" not in draft.data


def test_composing_leaves_hydras_global_state_as_it_was() -> None:
    from hydra.core.global_hydra import GlobalHydra

    run()
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(("setting", "data"), [("multi_label", "multi"), ("regression", "regression")])
def test_the_starter_data_fit_the_kind_of_answer(setting: str, data: str) -> None:
    composed = compose(["task=classify", f"task.{setting}=true"])
    assert f"classify_{data}/" in str(composed.config.data.train)
