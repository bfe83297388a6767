"""Translation: a text in one language and the same in another.

Decoders are asked in words that name the languages; T5 gets the prefix that it was pretrained with; multilingual
encoder-decoders (mBART, NLLB, M2M100) get the marks of the languages from their tokenizer; others, such as Marian,
read the source as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from chainft.config.run import TaskConfig
from chainft.data.example import Example
from chainft.errors import ConfigError, Problem, did_you_mean
from chainft.tasks._generation_settings import TextToTextConfig
from chainft.tasks._text_to_text import TextToText
from chainft.tasks.base import About, Baseline, Field
from chainft.text.languages import NAMES, base_code, model_code, name_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_SOURCE = Field("source", "text", aliases=("src", "source_text", "input", "text"))
_TARGET = Field("target", "value", aliases=("tgt", "target_text", "reference", "references", "translation"), gold=True)
_MECAB = {"ja": ("ja-mecab", "MeCab", "ja"), "ko": ("ko-mecab", "mecab_ko", "ko")}
"""Languages for whose words sacreBLEU needs a further package: its tokenizer, the module, sacreBLEU's extra."""


@dataclass(frozen=True, kw_only=True)
class TranslateConfig(TextToTextConfig):
    """From one language into another."""

    name: str = "translate"
    source_lang: str
    """Language of the sources, as a code: en, or as a model has it: en_XX, eng_Latn."""
    target_lang: str
    """Language of the translations."""
    bleu_tokenizer: Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"] = "auto"
    """How BLEU tells words apart, by sacreBLEU's names; auto: zh, ja-mecab and ko-mecab for these languages, else 13a."""


class Translate(TextToText):
    """Sources and their translations; the best checkpoint is the one with the best chrF."""

    config_class: ClassVar[type[TaskConfig]] = TranslateConfig
    config: TranslateConfig
    source_field: ClassVar[Field] = _SOURCE
    target_field: ClassVar[Field] = _TARGET
    fields: ClassVar[tuple[Field, ...]] = (_SOURCE, _TARGET)
    answer: ClassVar[str] = "translation"
    main_metric: ClassVar[str] = "chrf"
    metric_family: ClassVar[str] = "references"
    about: ClassVar[About] = About(
        "Translation",
        purpose="translates texts",
        sample="Two children are feeding the ducks.",
        hub_tag="translation",
        limit="It can state false things fluently; have a person check what matters.",
    )
    default_model: ClassVar[str] = "smollm2"
    default_metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf", "lengths")

    def __init__(self, config: TranslateConfig) -> None:
        super().__init__(config)
        codes = {_SOURCE: config.source_lang, _TARGET: config.target_lang}
        self.fields = tuple(_with_codes(field, code) for field, code in codes.items())  # type: ignore[misc]
        self._languages: tuple[str, str] | None = None
        """The tokenizer's marks of the languages, where it has any."""

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        config, tokenizer = self.config, self.bleu_tokenizer
        if base_code(config.source_lang) == base_code(config.target_lang) and config.source_lang == config.target_lang:
            message = f"task.source_lang and task.target_lang are both {config.source_lang!r}"
            yield Problem("contradiction", message, key="task.target_lang")
        if "bleu" not in self.metric_names and config.bleu_tokenizer != "auto":
            message = f"task.bleu_tokenizer = {config.bleu_tokenizer!r} has no effect: task.metrics has no bleu"
            yield Problem("no-effect", message, key="task.bleu_tokenizer")
        for needed, module, extra in _MECAB.values() if "bleu" in self.metric_names else ():
            if tokenizer == needed and find_spec(module) is None:
                message = f"BLEU of {config.target_lang!r} needs the tokenizer {needed}, which is not installed"
                help = f"pip install 'sacrebleu[{extra}]', or set task.bleu_tokenizer=char"
                yield Problem("package-not-installed", message, key="task.bleu_tokenizer", help=help)

    @property
    def bleu_tokenizer(self) -> str:
        """The name of sacreBLEU's tokenizer for the target language."""
        if self.config.bleu_tokenizer != "auto":
            return self.config.bleu_tokenizer
        base = base_code(self.config.target_lang)
        return "zh" if base == "zh" else _MECAB[base][0] if base in _MECAB else "13a"

    def instruction(self) -> str:
        """Names the languages for decoders and T5. Raises ConfigError for a language whose name is not known."""
        if self.has_encoder and self._model_type != "t5":
            return self.place
        source, target = self._name("source_lang"), self._name("target_lang")
        if self.has_encoder:
            return f"translate {source} to {target}: {self.place}"
        return f"Translate from {source} to {target}:\n{self.place}"

    @property
    def _model_type(self) -> str:
        return "" if self.architecture is None else str(self.architecture.model_type)

    def _name(self, key: str) -> str:
        code = getattr(self.config, key)
        if (name := name_of(code)) is None:
            raise ConfigError(
                f"task.{key} = {code!r} is no language whose name is known, which the prompt needs",
                slug="unknown-language",
                key=f"task.{key}",
                help=did_you_mean(code, NAMES) or f"write the prompt yourself: task.instruction='... {self.place}'",
            )
        return name

    # Features -----------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError for a language that a multilingual tokenizer has no mark for."""
        self._languages = self._marks(tokenizer)
        if self._languages is not None:
            multilingual: Any = tokenizer
            multilingual.src_lang, multilingual.tgt_lang = self._languages
        super().prepare(tokenizer, max_length=max_length)

    def _marks(self, tokenizer: Any) -> tuple[str, str] | None:
        if not self.has_encoder or not hasattr(tokenizer, "src_lang"):
            return None
        known = list(getattr(tokenizer, "lang_code_to_id", None) or tokenizer.all_special_tokens)
        found = {key: model_code(getattr(self.config, key), known) for key in ("source_lang", "target_lang")}
        for key, code in found.items():
            if code is None:
                wanted = getattr(self.config, key)
                raise ConfigError(
                    f"task.{key} = {wanted!r} is no language of {type(tokenizer).__name__}",
                    slug="unknown-language",
                    key=f"task.{key}",
                    help=did_you_mean(wanted, known) or f"it has {', '.join(known[:10])}, ...",
                )
        return str(found["source_lang"]), str(found["target_lang"])

    def start_tokens(self, shift: Callable[[Tensor], Tensor]) -> Mapping[str, int]:
        """A target that begins with the mark of its language is forced to."""
        start = super().start_tokens(shift)
        if self._languages is None:
            return start
        first, mark = self.layout.target("")[0], self.tokenizer.convert_tokens_to_ids(self._languages[1])
        return {**start, "forced_bos_token_id": first} if first == mark else start

    # Scores -------------------------------------------------------------------------------------

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`copy`: the source as it is, which names and numbers make better than nothing."""
        return {"copy": self.source}


def _with_codes(field: Field, code: str) -> Field:
    """Columns may be named after the language, also inside of an object `translation`, as WMT's data sets have it."""
    codes = tuple(dict.fromkeys((code, base_code(code))))
    nested = tuple(f"translation.{one}" for one in codes)
    return replace(field, aliases=(*nested, *codes, *field.aliases))


PLUGIN = Translate
