"""A tiny builder of HTML and SVG that escapes by default.

Only what `tag` and `raw` return is `Html`; any other text is escaped where it is put in, so forgetting to
escape is impossible rather than easy to overlook. A template engine would bring the same with a switch to set
(and a dependency that we don't otherwise declare) and would leave the SVG arithmetic to be written in Python
all the same; here mypy checks every piece.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

from chainft.report.words import printable

_VOID = frozenset({"meta", "br", "hr", "col"})


class Html(str):
    """Markup that is safe to put into a page."""

    __slots__ = ()


Child = str | int | Iterable["Child"] | None
"""Text (escaped unless it is Html), a number, nothing, or several of these."""
Value = str | int | float | bool | None


def tag(element: str, /, *children: Child, **attributes: Value) -> Html:
    """An element; `class_` and `stroke_width` stand for `class` and `stroke-width`, None and False leave out.

    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    opened = f"<{element}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Html(opened if element in _VOID else f"{opened}{join(children)}</{element}>")


def join(children: Child) -> Html:
    """All children, one after the other."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str | int):
        return escape(children)
    return Html("".join(join(child) for child in children))


def escape(text: object) -> Html:
    """Text as markup that shows it: no element, no attribute, no invisible control character."""
    return Html(html.escape(printable(text, keep="\n\t"), quote=True))


def raw(markup: str) -> Html:
    """Our own markup as it is; never for anything from data, config or model."""
    return Html(markup)


def coordinate(value: float) -> str:
    """A length in SVG. Raises ValueError for one that is not finite.

    >>> coordinate(3.14159), coordinate(2.0)
    ('3.1', '2')
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is no place on a page")
    return f"{value:.1f}".removesuffix(".0")


def _attribute(key: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{coordinate(value) if isinstance(value, float) else escape(value)}"'
