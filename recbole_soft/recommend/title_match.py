"""Finds what a person typed in the catalogue: exactly, in other words' order, or nearly, and never by guessing.

A wrong match is worse than a question: what is not clear is refused, with the nearest titles. Knows titles by item
id and nothing else.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from recbole_soft.data.catalog import clean_title
from recbole_soft.errors import DataError

# Similarity (difflib's ratio) above which a title may be meant, and how far it has to be ahead of the next one.
CLEAR_RATIO, CLEAR_LEAD = 0.85, 0.05
SUGGESTIONS = 4
_WORD = re.compile(r"\w+")
_BRACKET_AT_END = re.compile(r"\s*[(\[][^()\[\]]*[)\]]\s*\Z")
_NUMBER = re.compile(r".*\d|[ivx]+\Z")


@dataclass(frozen=True)
class TitleMatch:
    """Attributes:
    item: item id.
    note: what was matched, where the text is not the title itself; else empty.
    """

    item: int
    note: str = ""


class UnknownTitleError(DataError):
    """A title that the catalogue does not have, or that could be several."""


class TitleMatcher:
    """Args: titles: by item id; the first is RecBole's padding."""

    def __init__(self, titles: Sequence[str]):
        self._titles = titles

    def find(self, text: str) -> TitleMatch:
        """The item of a title.

        Raises:
            UnknownTitleError: no title is clearly meant.
        """
        cleaned = clean_title(text)
        if found := self._by_text.get(_folded(cleaned)):
            return self._one_of(cleaned, found)
        for described, match in (("the same words", self._same_words), ("nearly the same", self._near)):
            items = match(cleaned)
            if len({_folded(self._titles[item]) for item in items}) == 1:
                return TitleMatch(items[0], f"'{cleaned}' was taken for '{self._titles[items[0]]}' ({described})")
        raise UnknownTitleError(f"there is no title '{cleaned}' in the catalogue of {len(self._titles) - 1:,} items",
                                where="history", remedy=self._suggestion(cleaned))

    def search(self, text: str, limit: int = 12) -> list[int]:
        """Item ids of titles that hold all words typed so far: those that begin with the text first, short ones first.

        For completing what is being typed; an empty text finds nothing.
        """
        typed = _folded(clean_title(text))
        words = typed.split()
        if not words:
            return []
        found = [item for item, title in enumerate(self._folded_titles)
                 if item and all(word in title for word in words)]
        return sorted(found, key=lambda item: (not self._folded_titles[item].startswith(typed),
                                               len(self._folded_titles[item]), item))[:limit]

    # ---- ways of matching ------------------------------------------------------------------------
    def _one_of(self, text: str, items: list[int]) -> TitleMatch:
        """One of several items whose titles differ in case alone, or not at all."""
        exact = [item for item in items if self._titles[item] == text] or items
        spellings = list(dict.fromkeys(self._titles[item] for item in exact))
        if len(spellings) > 1:
            raise UnknownTitleError(f"'{text}' could be {' or '.join(map(repr, spellings))}", where="history",
                                    remedy="write it as it stands in the catalogue, or give the item's id")
        note = f"{len(exact)} items are called '{text}'; the first is taken" if len(exact) > 1 else ""
        return TitleMatch(exact[0], note)

    def _same_words(self, text: str) -> list[int]:
        """In any order, with or without a bracket at the end, such as a year; two different brackets never match."""
        whole = _word_key(text)
        return (self._by_words.get(whole) or self._by_words_before_bracket.get(whole)
                or self._by_words.get(_word_key(_without_bracket(text)), []))

    def _near(self, text: str) -> list[int]:
        """The one title that a slip of the pen explains; numbers (part 2, FIFA 15, VII) are never slips."""
        folded = _folded(text)
        close = [(_ratio(folded, title), title) for title in self._close(folded, CLEAR_RATIO - CLEAR_LEAD, 3)]
        close.sort(reverse=True)
        is_clear = close and close[0][0] >= CLEAR_RATIO and (len(close) == 1 or close[0][0] - close[1][0] >= CLEAR_LEAD)
        return self._by_text[close[0][1]] if is_clear and _numbers(folded) == _numbers(close[0][1]) else []

    def _close(self, folded: str, cutoff: float, count: int) -> list[str]:
        return difflib.get_close_matches(folded, self._by_text, n=count, cutoff=cutoff)

    def _suggestion(self, text: str) -> str:
        near = [self._by_text[title][0] for title in self._close(_folded(text), 0.6, SUGGESTIONS)]
        items = list(dict.fromkeys([*self.search(text, SUGGESTIONS - 1), *near]))[:SUGGESTIONS]
        if not items:
            return "no title is near; check the spelling against the titles in NAME.item of the data set"
        return "did you mean " + " or ".join(f"'{self._titles[item]}'" for item in items) + "?"

    # ---- indexes, made when first needed -----------------------------------------------------------
    @cached_property
    def _folded_titles(self) -> list[str]:
        return [_folded(title) for title in self._titles]

    @cached_property
    def _by_text(self) -> dict[str, list[int]]:
        return _grouped(self._folded_titles)

    @cached_property
    def _by_words(self) -> dict[str, list[int]]:
        return _grouped([_word_key(title) for title in self._titles])

    @cached_property
    def _by_words_before_bracket(self) -> dict[str, list[int]]:
        return _grouped([_word_key(_without_bracket(title)) for title in self._titles])


def _grouped(keys: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for item, key in enumerate(keys):
        if item and key:
            found.setdefault(key, []).append(item)
    return found


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _word_key(text: str) -> str:
    """A text's words, sorted; apostrophes join, other punctuation parts."""
    return " ".join(sorted(_WORD.findall(_folded(text).replace("'", "").replace("\u2019", ""))))


def _without_bracket(text: str) -> str:
    return _BRACKET_AT_END.sub("", text)


def _numbers(folded: str) -> list[str]:
    return sorted(word for word in _WORD.findall(folded) if _NUMBER.match(word))


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, one).ratio()
