"""How numbers and names of a run are put into words: shared by console, page and model card."""

from __future__ import annotations

import math
import re

from chainft.metrics._direction import falls

MISSING = "–"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_MEANINGS: dict[str, str] = {
    "loss": "mean loss of one target (lower is better)",
    "mean_score": "mean of the main metrics of all tasks",
    "perplexity": "how many tokens the model hesitates between, on average (lower is better; 1 is certain)",
    "accuracy": "share of texts whose class is right",
    "exact_match": "share of texts whose answer is exactly right, with nothing missing and nothing too much",
    "rouge_l": "overlap with the expected text in words: the longest common sequence",
    "chrf": "overlap with the expected text in short sequences of characters",
}

_KINDS: dict[str, str] = {
    "precision": "of what was predicted, the share that is right",
    "recall": "of what is there, the share that was found",
    "f1": "balance (harmonic mean) of precision and recall",
    "accuracy": "share that is right",
}

_COUNTED: dict[str, tuple[str, str]] = {
    "entity": ("whole entities", "one is right only if its type, its first and its last word are all right"),
    "token": ("single words", "most are outside of entities and easy, so it is higher than an entity score"),
}

_AVERAGES: dict[str, tuple[str, str]] = {
    "macro": ("the plain mean over classes", "rare ones weigh as much as frequent ones"),
    "micro": ("all classes together", "frequent ones dominate"),
    "weighted": ("the mean over classes", "each weighs as much as it is frequent"),
    "samples": ("the mean over texts", "each weighs the same, however many labels it has"),
}


def printable(text: object, *, keep: str = "") -> str:
    r"""`text` with control characters, changes of direction and lone surrogates made visible.

    So neither a terminal nor a reader is misled by data, and everything can be written as UTF-8. `keep` stays.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _CONTROL.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), str(text)
    )


def number(value: object) -> str:
    """A score, count or name for a cell: fractions with four decimals, counts with thousands, `–` for none.

    >>> [number(value) for value in (0.81234, 12345, 123.456, 1.0, None, float("nan"), "O")]
    ['0.8123', '12,345', '123.46', '1.0000', '–', '–', 'O']
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.2f}"


def change(before: float | None, after: float | None) -> str:
    """The signed difference of two scores.

    >>> change(0.1, 0.81234), change(2.0, 0.5), change(None, 1.0)
    ('+0.7123', '-1.5000', '–')
    """
    if before is None or after is None or not math.isfinite(after - before):
        return MISSING
    return ("-" if after < before else "+") + number(abs(float(after) - float(before)))


def short(value: float) -> str:
    """A setting or axis label without needless digits.

    >>> [short(value) for value in (5e-5, 1e-4, 0.25, 3.0, 20000, 0)]
    ['5e-5', '1e-4', '0.25', '3', '20,000', '0']
    """
    if not math.isfinite(value):
        return MISSING
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.4e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.6g}"


def duration(seconds: float | None) -> str:
    """A length of time for a person.

    >>> [duration(value) for value in (0.42, 12.3, 200, 7500, 200000)]
    ['0.4 s', '12 s', '3 min 20 s', '2 h 5 min', '2 d 7 h']
    """
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for large, small, size, unit in (("min", "s", 60, 1), ("h", "min", 3600, 60)):
        if whole < size * (60 if size == 60 else 24):
            return f"{whole // size} {large} {whole % size // unit} {small}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(num_bytes: float | None) -> str:
    """An amount of memory for a person.

    >>> [size(value) for value in (512, 4096, 1.5 * 2**30)]
    ['512 B', '4.0 KiB', '1.5 GiB']
    """
    if num_bytes is None or not math.isfinite(num_bytes):
        return MISSING
    amount, units = float(num_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def judgement(metric: str, before: float | None, after: float | None) -> str:
    """`better`, `worse`, or `same` where nothing can be said.

    >>> judgement("loss", 2.0, 1.0), judgement("f1", 2.0, 1.0), judgement("f1", None, 1.0)
    ('better', 'worse', 'same')
    """
    if before is None or after is None or before == after or not math.isfinite(before + after):
        return "same"
    return "better" if (after < before) == falls(metric) else "worse"


def meaning(metric: str, *, brief: bool = False) -> str | None:
    """What a metric counts, in plain words; None for one that we don't know.

    >>> meaning("entity_recall", brief=True)
    'of what is there, the share that was found; counts whole entities'
    >>> meaning("entity_recall").split(": ")[1]
    'one is right only if its type, its first and its last word are all right'
    >>> meaning("f1_macro")
    'balance (harmonic mean) of precision and recall; the plain mean over classes: rare ones weigh as much as frequent ones'
    """
    metric = metric.rpartition("/")[2]  # Of several tasks, the part before says which one.
    if metric in _MEANINGS:
        return _MEANINGS[metric]
    words = metric.casefold().split("_")
    kind = next((text for name, text in _KINDS.items() if name in words), None)
    if kind is None:
        return None
    parts = [kind]
    for table, verb in ((_COUNTED, "counts "), (_AVERAGES, "")):
        for what, why in (table[name] for name in table if name in words):
            parts.append(verb + what + ("" if brief else f": {why}"))
    if "strict" in words:
        parts.append("spans whose tags break the scheme count for nothing")
    return "; ".join(parts)


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "example"), plural(1200, "example"), plural(2, "class", "classes")
    ('1 example', '1,200 examples', '2 classes')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"
