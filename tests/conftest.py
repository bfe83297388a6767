"""Tiny models, data and the command itself, for all tests: offline, on the CPU, in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from chainft.cli.jobs import Surroundings, WarmProcess, has_warm_process, warm_context

REPOSITORY = Path(__file__).parents[1]
_TEXT = (
    "anna ben clara david emil oslo paris rome lima quito acme globex initech umbrella "
    "the a of in at from with and visited met left joined bought sold likes loves near old new "
    "company city person house river report yesterday today . , ! ? ' s good bad fine great awful"
)
WORDS = _TEXT.split()


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reaches the network or the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setenv("CHAINFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COLUMNS", "120")
        patch.delenv("CHAINFT_DEBUG", raising=False)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; skips where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data of real data is absent")
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block BERT body with a WordPiece tokenizer over `WORDS` and letters, as save_pretrained writes it."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-encoder")
    size = _save_word_pieces(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block Llama with the same tokenizer and an end-of-text token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-decoder")
    size = _save_word_pieces(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=128,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _save_word_pieces(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*WORDS, *letters])]
    vocabulary += [f"##{letter}" for letter in letters]
    ids = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    return len(ids)


@pytest.fixture(scope="session")
def ner_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name small CoNLL files: names of persons, places and companies in short sentences."""
    return _write_ner(tmp_path_factory.mktemp("ner"))


def _write_ner(folder: Path) -> list[str]:
    people, places, companies = WORDS[:5], WORDS[5:10], WORDS[10:14]
    verbs = ["visited", "met", "left", "joined", "likes", "bought"]
    sentences = []
    for number in range(60):
        person, place = people[number % 5], places[(number * 3) % 5]
        company, verb = companies[(number * 5) % 4], verbs[number % 6]
        words = [(person, "B-PER"), (verb, "O"), (company, "B-ORG"), ("in", "O"), (place, "B-LOC")]
        words += [("old", "I-LOC")] if number % 7 == 0 else []
        words += [("yesterday", "O")] * (number % 4) + [(".", "O")]
        sentences.append("".join(f"{word}\t{tag}\n" for word, tag in words) + "\n")
    cut = {"train": sentences[:40], "validation": sentences[40:50], "test": sentences[50:]}
    overrides = []
    for split, chosen in cut.items():
        (folder / f"{split}.conll").write_text("".join(chosen), encoding="utf-8")
        overrides.append(f"data.{split}={folder / split}.conll")
    return ["data=conll", *overrides]


Chainft = Callable[..., "subprocess.CompletedProcess[str]"]


Warm = Callable[[Sequence[str], Surroundings], WarmProcess]


@pytest.fixture(scope="session")
def warm(offline: None) -> Warm:
    """Starts the command as a fork of a process that has imported everything: the imports are most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        context = warm_context()
        first = WarmProcess(["--version"], Surroundings(os.devnull), context)
        assert first.wait(120) == 0
    return lambda words, around: WarmProcess(words, around, context)


@pytest.fixture
def chainft(request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Chainft:
    """Runs `chainft WORDS...` as a user would, in an empty folder; `env` adds variables.

    On Linux as a fork of a warm process, unless a variable is one that libraries read when they are imported.
    """

    def run(
        *words: str | Path, env: dict[str, str] | None = None, stdin: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        command, variables = list(map(str, words)), {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        if has_warm_process() and all(name.startswith(("CHAINFT_", "NO_COLOR", "COLUMNS")) for name in env or {}):
            folder = tmp_path_factory.mktemp("streams")
            given = None if stdin is None else str(folder / "in")
            if given is not None:
                Path(given).write_text(stdin or "", encoding="utf-8")
            around = Surroundings(str(folder / "out"), str(folder / "err"), given, str(tmp_path), variables)
            code = _end(request.getfixturevalue("warm")(command, around), command, timeout)
            out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
            return subprocess.CompletedProcess(["chainft", *command], code, out, err)
        return subprocess.run(
            [sys.executable, "-m", "chainft", *command],
            cwd=tmp_path,
            env=variables,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def _end(process: WarmProcess, words: list[str], timeout: float) -> int:
    code = process.wait(timeout)
    if code is None:
        process.send_signal(signal.SIGKILL)
        raise subprocess.TimeoutExpired(["chainft", *words], timeout)
    return code


def read_lines(path: Path) -> list[dict[str, object]]:
    """The records of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
