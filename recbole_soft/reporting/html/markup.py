"""HTML by construction: every text that becomes part of the page is escaped unless it is markup already.

Titles, settings and paths come from data sets and users. They can hold anything, `</script>` and control characters
included, so there is no way to put a plain string into the page unescaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

# Characters that HTML forbids, and halves of surrogate pairs, which no file can hold.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = frozenset({"br", "hr", "meta", "input", "col", "wbr"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escaped(text: Any) -> Html:
    """Plain text as markup; what HTML cannot hold becomes the replacement character."""
    return Html(html.escape(_FORBIDDEN.sub("\ufffd", str(text)), quote=True))


def joined(*children: Any) -> Html:
    """Children one after the other: markup as it is, lists flattened, None left out, everything else escaped."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            parts.append(child if isinstance(child, Html) else escaped(child))
        elif isinstance(child, Iterable):
            parts.append(joined(*child))
        else:
            parts.append(escaped(child))
    return Html("".join(parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        name: of the element.
        children: see `joined`.
        attributes: None and False are left out, True stands alone; `class_` is `class`, `data_value` is `data-value`.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{escaped(value)}"')
    opening = f"<{' '.join(words)}>"
    return Html(opening) if name in _VOID else Html(f"{opening}{joined(*children)}</{name}>")


def title_text(text: Any) -> Html:
    """A title or other text from data: kept apart from its surroundings, whatever direction its script has."""
    return tag("bdi", text)


def slug(text: str) -> str:
    """A text as an id of an element."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
