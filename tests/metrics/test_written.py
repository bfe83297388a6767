"""Metrics of translations and summaries: equal to the packages that define them, from counters alone."""

from __future__ import annotations

import random
import sys

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from chainft.errors import ConfigError
from chainft.metrics._sacrebleu import SacreBleu
from chainft.metrics.bleu import Bleu
from chainft.metrics.chrf import Chrf
from chainft.metrics.lengths import Lengths
from chainft.metrics.rouge import KINDS, Rouge, as_lines

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "house", ",", ".", "!", "Running", "quickly"]


def corpus(seed: int, *, most_references: int = 1) -> list[tuple[list[str], str]]:
    """Random (references, answer), some answers empty, some right."""
    draw = random.Random(seed)

    def text(low: int = 1) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(low, 25)))

    rows = [([text() for _ in range(draw.randint(1, most_references))], text(0)) for _ in range(40)]
    return [*rows, (rows[0][0], rows[0][0][0]), (["a"], "a")]


@pytest.mark.parametrize("most_references", [1, 3])
@pytest.mark.parametrize(("ours", "theirs"), [(Bleu, BLEU), (Chrf, CHRF)])
def test_sums_give_what_sacrebleu_gives_for_the_corpus(
    ours: type[SacreBleu], theirs: type[BLEU | CHRF], most_references: int
) -> None:
    rows = corpus(3, most_references=most_references)
    metric = ours()
    for gold, answer in rows:
        metric.update(gold, answer)
    columns = [[gold[i] if i < len(gold) else None for gold, _ in rows] for i in range(most_references)]
    package = theirs()
    wanted = package.corpus_score([answer for _, answer in rows], columns)  # type: ignore[arg-type]
    scores = metric.compute()
    assert scores.values == {metric.name: pytest.approx(wanted.score / 100, abs=1e-12)}
    assert metric.signature() == package.get_signature().format()
    assert metric.signature() in scores.meanings[metric.name]
    assert scores.tables[0].rows[0][2] == metric.signature()


def test_bleu_by_hand() -> None:
    """4 of 5, 3 of 4, 2 of 3 and 1 of 2 n-grams are right: (0.8 * 0.75 * 2/3 * 0.5) ** (1/4) = 0.6687."""
    metric = Bleu()
    metric.update(["the cat sat on mats"], "the cat sat on it")
    assert metric.compute().values["bleu"] == pytest.approx(0.66874, abs=1e-5)


def test_bleu_counts_characters_of_chinese() -> None:
    metric = Bleu()
    metric.tokenize = "zh"
    metric.update(["我喜欢猫和狗"], "我喜欢猫和鸟")
    assert metric.compute().values["bleu"] > 0.5
    assert "tok:zh" in metric.signature()


@pytest.mark.parametrize("most_references", [1, 3])
def test_rouge_is_the_mean_of_what_the_package_gives_for_the_best_reference(most_references: int) -> None:
    rows = corpus(5, most_references=most_references)
    metric, package = Rouge(), RougeScorer(list(KINDS), use_stemmer=True)
    for gold, answer in rows:
        metric.update(gold, answer)
    found = [package.score_multi([as_lines(one) for one in gold], as_lines(answer)) for gold, answer in rows]
    means = {kind: sum(one[kind].fmeasure for one in found) / len(rows) for kind in KINDS}
    assert metric.compute().values == pytest.approx(means, abs=1e-12)


def test_the_best_reference_counts() -> None:
    metric = Rouge()
    metric.update(["nothing alike", "the cat sat"], "the cat sat")
    assert metric.compute().values == dict.fromkeys(KINDS, 1.0)


def test_rouge_l_sum_looks_at_sentences() -> None:
    """Sentences in another order: each is found whole, though no long row of the text as one is in common."""
    metric = Rouge()
    metric.update(["The dog ran home. It was very cold."], "It was very cold. The dog ran home.")
    values = metric.compute().values
    assert values["rougeLsum"] == 1.0
    assert values["rougeL"] == 0.5


def test_words_of_any_script_count_where_asked() -> None:
    """rouge-score's own tokenizer knows ASCII letters only."""
    metric = Rouge()
    metric.update(["кошка спит"], "кошка спит")
    assert metric.compute().values["rouge1"] == 0.0
    other = Rouge()
    other.any_language = True
    other.update(["кошка спит"], "кошка спит")
    assert other.compute().values["rouge1"] == 1.0


def test_lengths_are_counted_in_stretches() -> None:
    metric = Lengths()
    metric.update(["a b c d"], {"source": "w " * 4, "target": "a b c d"})
    metric.update(["a b", "a b c d e f g h"], {"source": "w " * 12, "target": "a b c d e f g"})
    metric.update(["a b c d"], {"source": ["w w w", "w w w"], "target": "x"})
    metric.update(["a"], {"source": "w", "target": None})
    scores = metric.compute()
    assert scores.tables[0].rows == (("words", 12, 16, 0.75),)
    ratios, lengths = scores.charts
    assert {name: count for name, count in ratios.series[0].points if count} == {
        "0.25–0.5": 1,
        "0.75–0.9": 1,
        "0.9–1.1": 1,
    }
    assert [name for name, _ in lengths.series[0].points] == ["1–5", "6–10", "11–15"]
    assert lengths.series[0].points[0][1] == 1.0
    assert lengths.series[0].points[1][1] == 0.0


@pytest.mark.parametrize("metric", [Bleu, Chrf, Rouge, Lengths])
def test_nothing_counted_is_no_error(metric: type[SacreBleu]) -> None:
    assert set(metric().compute().values.values()) <= {0.0}


@pytest.mark.parametrize(("metric", "package"), [(Bleu, "sacrebleu"), (Rouge, "rouge_score")])
def test_a_missing_package_is_named_with_its_extra(
    metric: type[SacreBleu], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("chainft.metrics._written.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        metric()
    assert "chainft[generate]" in (caught.value.problems[0].help or "")
