"""Runs that write texts make new ones: there and back, or for a label, sorted by a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from chainft.augmentations import back_translate, by_label
from chainft.augmentations.back_translate import BackTranslate, BackTranslateConfig
from chainft.augmentations.by_label import ByLabel, ByLabelConfig
from chainft.data.example import Example
from chainft.errors import ConfigError
from chainft.tasks.classify import Classify, ClassifyConfig
from chainft.tasks.ner import Ner, NerConfig
from chainft.tasks.translate import Translate, TranslateConfig
from chainft.text.inputs import text_example

CLASSIFY = Classify(ClassifyConfig())


def texts(*pairs: tuple[str, str]) -> list[Example]:
    return [text_example({"text": text, "label": label}, f"t:{n}") for n, (text, label) in enumerate(pairs, start=1)]


def translator(source: str, target: str) -> Any:
    return SimpleNamespace(task=Translate(TranslateConfig(source_lang=source, target_lang=target)))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`there` answers in capitals, `back` in two ways; neither loads a model."""
    known: Mapping[str, Any] = {
        "there": translator("en", "de"),
        "back": translator("de", "en"),
        "other": translator("fr", "en"),
    }
    monkeypatch.setattr(back_translate, "load_writer", lambda run, key: known[run])

    def answers(trained: Any, read: Sequence[Example], batch_size: int) -> Iterator[list[str]]:
        for one in read:
            text = one.values["source"]
            yield (
                [text.upper()]
                if trained is known["there"]
                else [f"{text} again", f"{text} anew"]
                if text != "NO"
                else []
            )

    monkeypatch.setattr(back_translate, "answers", answers)


def test_texts_go_there_and_back_and_keep_their_label(runs: None) -> None:
    augmentation = BackTranslate(BackTranslateConfig(there="there", back="back", num_copies=2), CLASSIFY)
    found = list(
        augmentation.make(texts(("pay now", "a"), (" ", "b"), ("no", "c")), progress=lambda done, total: None)
    )
    assert [(one.values["text"], one.values["label"]) for one in found] == [
        ("PAY NOW again", "a"),
        ("PAY NOW anew", "a"),
    ]
    assert found[0].facts == {"field": "text", "by_way_of": "PAY NOW"}
    assert found[0].source is not None and found[0].source.where() == "t:1"


def test_runs_whose_languages_do_not_meet_are_refused(runs: None) -> None:
    augmentation = BackTranslate(BackTranslateConfig(there="there", back="other"), CLASSIFY)
    with pytest.raises(ConfigError, match=r"from en into de, augment\.back from fr into en"):
        list(augmentation.make(texts(("pay", "a")), progress=lambda done, total: None))


def test_tags_would_be_lost_on_the_way() -> None:
    with pytest.raises(ConfigError, match="their answers stand in the texts") as caught:
        BackTranslate(BackTranslateConfig(there="a", back="b"), Ner(NerConfig()))
    assert "for ner take augment=mix" in caught.value.render()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The prompts that a run was asked, and how many answers it drew; it numbers its answers."""
    asked: list[tuple[str, int]] = []
    count = [0]

    def drawing(writer: Any, *, count: int, temperature: float, seed: int) -> None:
        writer.count = count

    def answers(writer: Any, read: Sequence[Example], batch_size: int) -> Iterator[list[str]]:
        (one,) = read
        asked.append((one.values["prompt"], writer.count))
        count[0] += 1
        yield [f"text {count[0]}.{number}" for number in range(writer.count)]

    from chainft.tasks.generate import Generate, GenerateConfig

    writer = SimpleNamespace(task=Generate(GenerateConfig()), count=0)
    monkeypatch.setattr(by_label, "load_writer", lambda run, key: writer)
    monkeypatch.setattr(by_label, "drawing", drawing)
    monkeypatch.setattr(by_label, "answers", answers)
    return asked


def test_each_label_gets_so_many_texts(written: list[tuple[str, int]]) -> None:
    augmentation = ByLabel(ByLabelConfig(run="run", prompt="About {label}:", num_copies=10), CLASSIFY)
    found = list(augmentation.make(texts(("x", "top_up"), ("y", "card")), progress=lambda done, total: None))
    assert written == [("About card:", 8), ("About card:", 2), ("About top up:", 8), ("About top up:", 2)]
    assert [one.values["label"] for one in found] == ["card"] * 10 + ["top_up"] * 10
    assert len({one.values["text"] for one in found}) == 20
    assert all(one.source is None and one.facts["prompt"].startswith("About") for one in found)


def test_only_texts_that_the_filter_agrees_with_stay(
    written: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = SimpleNamespace(task=CLASSIFY)
    monkeypatch.setattr("chainft.infer.trained.load_run", lambda path: judge)

    def engine(trained: Any, batch_size: int) -> Any:
        def predict(read: Iterator[Example]) -> Iterator[Any]:
            for one in read:
                last = int(one.values["text"][-1])
                yield SimpleNamespace(prediction={"label": "card" if last % 2 else "top_up", "score": last / 10})

        return SimpleNamespace(predict=predict)

    monkeypatch.setattr("chainft.infer.predict.make_engine", engine)
    settings = ByLabelConfig(run="run", num_copies=6, filter="judge", min_score=0.3)
    found = list(ByLabel(settings, CLASSIFY).make(texts(("y", "card")), progress=lambda done, total: None))
    assert [one.values["text"] for one in found] == ["text 1.3", "text 1.5"]
    assert found[0].facts["score"] == 0.3


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"prompt": "Write."}, "has no {label}"), ({"min_score": 0.5}, "min_score = 0.5 has no effect")],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ByLabel(ByLabelConfig(run="run", **settings), CLASSIFY)
