"""Translation: prompts and marks of languages, columns named by them, and runs on the data that come with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedTokenizerBase,
)

from chainft.config.parse import parse
from chainft.config.run import DataConfig, ModelConfig
from chainft.data.columns import ColumnMap
from chainft.data.example import Example, Origin
from chainft.data.store import open_store
from chainft.errors import ConfigError, DataError, ModelError
from chainft.models.load import load_config, load_model, load_tokenizer
from chainft.registry import find
from chainft.tasks.translate import Translate, TranslateConfig

Writer = Callable[[str], Path]
PAIR = Example({"source": "anna visited paris", "target": "the old city"}, Origin("data.jsonl", 1))


def make(folder: Path | None = None, **settings: Any) -> Translate:
    given = {"name": "translate", "source_lang": "en", "target_lang": "de", "max_new_tokens": 8, **settings}
    task = Translate(parse(TranslateConfig, given))
    if folder is not None:
        task.adapt(load_config(ModelConfig(path=str(folder))))
        task.prepare(AutoTokenizer.from_pretrained(folder), max_length=48)
    return task


def test_the_plugin_is_found() -> None:
    assert find("task", "translate", key="task.name") is Translate


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("llama", "Translate from English to German:\nanna visited paris\n"),
        ("t5", "translate English to German: anna visited paris"),
        ("marian", "anna visited paris"),
        ("bart", "anna visited paris"),
    ],
)
def test_each_kind_of_model_is_asked_in_its_own_way(writer: Writer, kind: str, wanted: str) -> None:
    assert make(writer(kind))._template.render("anna visited paris") == wanted


def test_own_words_replace_the_prompt(writer: Writer) -> None:
    task = make(writer("t5"), instruction="to {source} now", source_lang="xx")
    assert task._template.render("paris") == "to paris now"


def test_a_language_without_a_name_is_refused_where_the_prompt_needs_it(writer: Writer) -> None:
    with pytest.raises(ConfigError, match="'xx'") as caught:
        make(writer("llama"), target_lang="xx")
    assert caught.value.problems[0].key == "task.target_lang"
    make(writer("marian"), target_lang="xx")


MULTILINGUAL: dict[str, Any] = {
    "mbart50": (MBart50Tokenizer, "mbart", "en_XX", "de_DE"),
    "mbart": (MBartTokenizer, "mbart", "en_XX", "de_DE"),
    "nllb": (NllbTokenizer, "m2m_100", "eng_Latn", "deu_Latn"),
}


@pytest.fixture(scope="module")
def multilingual(
    tmp_path_factory: pytest.TempPathFactory, save_writer: Callable[[str, PreTrainedTokenizerBase, Path], None]
) -> Callable[[str], Path]:
    def save(name: str) -> Path:
        kind, model_type, _, _ = MULTILINGUAL[name]
        folder: Path = tmp_path_factory.mktemp(name)
        tokenizer: PreTrainedTokenizerBase = kind()
        letters = [letter for letter in "▁abcdefghijklmnopqrstuvwxyz" if letter not in tokenizer.get_vocab()]
        tokenizer.add_tokens(letters)
        save_writer(model_type, tokenizer, folder)
        return folder

    return save


@pytest.mark.parametrize("name", MULTILINGUAL)
def test_marks_of_languages_stand_where_the_model_expects_them(multilingual: Callable[[str], Path], name: str) -> None:
    """mBART ends a text with the mark and starts its decoder with it, mBART-50 and NLLB begin texts with it."""
    _, _, source, target = MULTILINGUAL[name]
    folder = multilingual(name)
    task = make(folder)
    (feature,) = task.encode(PAIR)
    ids, labels = feature["input_ids"].tolist(), feature["labels"].tolist()
    mark = task.tokenizer.convert_tokens_to_ids
    end = task.tokenizer.eos_token_id
    if name == "mbart":
        assert (ids[-2:], labels[-2:]) == ([end, mark(source)], [end, mark(target)])
    else:
        assert (ids[0], labels[0]) == (mark(source), mark(target))
    decoder = task.collate([feature], [0]).inputs["decoder_input_ids"][0].tolist()
    start = task.start_tokens(task._shift)
    assert start["decoder_start_token_id"] == decoder[0] == (mark(target) if name == "mbart" else end)
    assert start.get("forced_bos_token_id") == (None if name == "mbart" else mark(target))
    assert task.encode(PAIR)[0]["input_ids"].tolist() == ids, "encoding a target changes how sources are read"


@pytest.mark.parametrize("name", ["mbart50", "nllb"])
def test_an_answer_is_forced_into_its_language(multilingual: Callable[[str], Path], name: str) -> None:
    folder = multilingual(name)
    task = make(folder)
    model = load_model(ModelConfig(path=str(folder)), task, seed=0).model.eval()
    with torch.inference_mode():
        (answers,) = task.infer(model, task.collate(task.encode(PAIR), [0])).raw
    assert answers[0][0] == task.tokenizer.convert_tokens_to_ids(MULTILINGUAL[name][3])
    assert MULTILINGUAL[name][3] not in task.to_text(answers[0])


def test_a_language_that_the_tokenizer_lacks_is_refused(multilingual: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="MBart50") as caught:
        make(multilingual("mbart50"), target_lang="cy")
    assert caught.value.problems[0].key == "task.target_lang"


@pytest.fixture(scope="module")
def marian(
    tmp_path_factory: pytest.TempPathFactory, save_writer: Callable[[str, PreTrainedTokenizerBase, Path], None]
) -> Path:
    """A random model with a Marian tokenizer as it comes: two SentencePiece models and no offsets."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="no sentencepiece")
    folder: Path = tmp_path_factory.mktemp("marian-spm")
    words = {"source": "the old city and a house of anna ", "target": "die alte stadt und ein haus von anna "}
    vocabulary = {"</s>": 0, "<unk>": 1}
    for side, text in words.items():
        trained = folder / f"{side}.spm"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text] * 20),
            model_prefix=str(folder / side),
            vocab_size=30,
            hard_vocab_limit=False,
            bos_id=-1,
            minloglevel=2,
        )
        (folder / f"{side}.model").rename(trained)
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(trained))
        for number in range(pieces.get_piece_size()):
            vocabulary.setdefault(pieces.id_to_piece(number), len(vocabulary))
    vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    with pytest.warns(UserWarning, match="sacremoses"):
        tokenizer = MarianTokenizer(*(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")))
    save_writer("marian", tokenizer, folder)
    return folder


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_a_tokenizer_without_offsets_serves(marian: Path, tmp_path: Path) -> None:
    """Marian's reads sources and targets by models of their own."""
    task = make(marian, overflow="truncate_end")
    assert not task.tokenizer.is_fast
    one = Example({"source": "the old city", "target": "die alte stadt"}, Origin("data.jsonl", 1))
    (feature,) = task.encode(one)
    assert task.to_text(feature["labels"]) == "die alte stadt"
    end = task.tokenizer.eos_token_id
    assert (feature["input_ids"][-1], feature["labels"][-1]) == (end, end)
    long = Example({"source": "the old city " * 40, "target": "die"}, Origin("data.jsonl", 2))
    cut = task.encode(long)[0]["input_ids"]
    assert (len(cut), cut[-1]) == (48, end)
    with pytest.raises(DataError, match="more than 48"):
        make(marian, overflow="truncate_end", instruction="a {source}").encode(long)
    store = open_store([one, long], task, cache_dir=tmp_path, split="train")
    assert store[0]["input_ids"].tolist() == feature["input_ids"].tolist()
    with pytest.raises(ModelError, match="slow one"):
        load_tokenizer(ModelConfig(path=str(marian)))


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"en": "a", "de": "b"}, {"source": "a", "target": "b"}),
        ({"de": "b", "en": "a", "id": 3}, {"source": "a", "target": "b"}),
        ({"translation": {"en": "a", "de": "b"}}, {"source": "a", "target": "b"}),
        ({"source": "a", "target": ["b", "c"]}, {"source": "a", "target": ["b", "c"]}),
        ({"src": "a", "tgt": "b"}, {"source": "a", "target": "b"}),
    ],
)
def test_columns_are_found_by_the_codes_of_languages(row: dict[str, Any], wanted: dict[str, Any]) -> None:
    example = Example(row, Origin("data.jsonl", 1))
    found = ColumnMap.of(make(), DataConfig(name="jsonl"), example).apply(example)
    assert isinstance(found, Example)
    assert found.values == wanted


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"target_lang": "en"}, "task.target_lang"),
        ({"bleu_tokenizer": "char", "metrics": ["chrf"]}, "task.bleu_tokenizer"),
        ({"target_lang": "ja"}, "task.bleu_tokenizer"),
        ({"metrics": ["text"]}, "task.metrics"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**settings)
    assert caught.value.problems[0].key == key


def test_bleu_of_chinese_counts_characters() -> None:
    metric = next(one for one in make(target_lang="zh").metrics() if type(one).__name__ == "Bleu")
    metric.update(["我喜欢猫"], "我喜欢猫")
    assert "tok:zh" in metric.compute().meanings["bleu"]


def test_predictions_and_gold_are_what_metrics_take() -> None:
    task = make()
    assert task.gold(PAIR) == ["the old city"]
    assert task.predicted({"source": "a", "translation": "b"}) == "b"
    assert task.baselines([])["copy"](PAIR) == "anna visited paris"
    several = Example({"source": "a", "target": ["b", "c d"]}, Origin("data.jsonl", 1))
    assert task.mistake(several, {"source": "a", "translation": "c  d"}) is None
    mistake = task.mistake(several, {"source": "a", "translation": "c"})
    assert mistake and (mistake.text, mistake.gold, mistake.predicted) == ("a", "c d", "c")


@pytest.mark.parametrize("name", ["translate", "summarize"])
def test_starter_data_have_no_sentence_twice(name: str) -> None:
    folder = Path(__file__).parents[2] / "chainft" / "starter" / name
    rows = [
        json.loads(line)
        for split in ("train", "validation", "test")
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for column in rows[0]:
        texts = [row[column] for row in rows]
        assert len(set(texts)) == len(texts)
        assert all(text == text.strip() and text.endswith(".") for text in texts)
