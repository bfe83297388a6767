"""Nothing that could run code gets past the gate: not from files, not from words."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainft.config import hydra_edge, search
from chainft.config.compose import compose, load_run_config
from chainft.config.document import to_yaml
from chainft.errors import ChainftError, ConfigError, SecurityError

RUN = ["task=toy", "data.name=toy"]


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / "conf" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


ATTACKS = {
    "target": "model:\n  _target_: builtins.open\n  file: marker\n  mode: w\n",
    "nested target": "optimizer:\n  options:\n    x:\n      - _target_: joblib.load\n",
    "logging factory": "data:\n  columns:\n    '()': os.system\n",
    "callbacks": "hydra:\n  callbacks:\n    x:\n      _target_: joblib.load\n      filename: marker\n",
    "job logging": "hydra:\n  job_logging:\n    handlers:\n      x:\n        '()': os.system\n",
    "sweeper": "hydra:\n  sweeper:\n    _target_: subprocess.Popen\n",
    "launcher": "hydra:\n  launcher:\n    _target_: subprocess.Popen\n",
    "environment": "hydra:\n  job:\n    env_set:\n      LD_PRELOAD: ./evil.so\n",
    "search path": "hydra:\n  searchpath:\n    - file:///etc\n",
    "search path of a package": "hydra:\n  searchpath:\n    - pkg://os\n",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_file_that_could_run_code_is_refused(toy: Path, attack: str) -> None:
    """fault 44"""
    write(toy, "experiment/evil.yaml", "# @package _global_\n" + attack)
    with pytest.raises(SecurityError) as caught:
        compose([*RUN, "experiment=evil"])
    problem = caught.value.problems[0]
    assert caught.value.exit_code == 10
    assert problem.where is not None and "conf/experiment/evil.yaml" in problem.where
    assert not (toy / "marker").exists()


@pytest.mark.parametrize(
    "word",
    [
        "model._target_=os.system",
        "++model._target_=os.system",
        "+model={_target_: os.system}",
        "data.columns={text: {_target_: os.system}}",
        "hydra.callbacks.x._target_=joblib.load",
        "+hydra.callbacks.x._target_=joblib.load",
        "+hydra.callbacks={x: {_target_: joblib.load}}",
        "hydra.sweeper._target_=subprocess.Popen",
        "hydra/launcher=evil",
        "hydra.job.env_set.LD_PRELOAD=evil.so",
        "hydra.job.env_set.PYTHONPATH=evil",
        "hydra.searchpath=[/etc]",
        "hydra.searchpath=[file:///etc]",
        "hydra.searchpath=[pkg://os]",
        "hydra.searchpath=[..]",
    ],
)
def test_word_that_could_run_code_is_refused(word: str) -> None:
    """fault 44"""
    with pytest.raises(SecurityError) as caught:
        compose([*RUN, word])
    assert caught.value.problems[0].where == word


def test_target_in_a_saved_config_is_refused(toy: Path) -> None:
    """fault 44"""
    data = compose(RUN).unresolved
    file = toy / "config.yaml"
    file.write_text(to_yaml(data | {"model": data["model"] | {"_target_": "os.system"}}), encoding="utf-8")
    with pytest.raises(SecurityError):
        load_run_config(file)


@pytest.mark.parametrize(
    ("word", "help"),
    [
        ("hydra.run.dir=x", "run=FOLDER"),
        ("hydra.sweep.dir=x", "sweep.dir"),
        ("hydra.mode=MULTIRUN", "train -m"),
        ("hydra.verbose=true", "log.txt"),
        ("hydra.output_subdir=null", "hydra.searchpath"),
    ],
)
def test_setting_of_hydra_without_effect_is_refused(word: str, help: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([*RUN, word])
    assert help in (caught.value.problems[0].help or "")


@pytest.mark.parametrize("name", ["train.yaml", "model/bomb.yaml"])
def test_bomb_on_the_search_path_is_refused_before_hydra(toy: Path, name: str) -> None:
    """fault 4"""
    bomb = ["a0: &a0 [x,x,x,x,x,x,x,x,x]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
    write(toy, name, "\n".join(bomb))
    with pytest.raises(ConfigError) as caught:
        compose([*RUN, "model=bomb"] if "model" in name else RUN)
    assert caught.value.problems[0].slug == "alias-bomb"


def test_folder_of_the_project_may_be_searched(toy: Path) -> None:
    (toy / "more" / "optimizer").mkdir(parents=True)
    (toy / "more" / "optimizer" / "mine.yaml").write_text("lr: 0.125\n", encoding="utf-8")
    assert compose([*RUN, "hydra.searchpath=[more]", "optimizer.lr=0.5"]).config.optimizer.lr == 0.5


def test_file_that_only_lies_there_is_never_opened(toy: Path) -> None:
    write(toy, "model/evil.yaml", ATTACKS["target"])
    assert compose(RUN).config.task.name == "toy"


def test_foreign_packages_configs_need_no_import(monkeypatch: pytest.MonkeyPatch, toy: Path) -> None:
    package = toy / "evilpkg" / "conf" / "model"
    package.mkdir(parents=True)
    (toy / "evilpkg" / "__init__.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(toy)
    assert search._package_folder("evilpkg.conf") == toy / "evilpkg" / "conf"


def test_hydras_own_configs_are_the_only_ungated_ones() -> None:
    assert (hydra_edge._HYDRA_CONF / "hydra").is_dir()
    assert hydra_edge._HYDRA_CONF.parent.name == "hydra"


def test_each_refusal_is_a_chainft_error_with_help_or_place(toy: Path) -> None:
    with pytest.raises(ChainftError) as caught:
        compose([*RUN, "model._target_=x"])
    assert "plug-ins" in caught.value.render()
