"""Prompts in which every history title is followed by a token that stands for the item itself (LLaRA).

Liao et al., "LLaRA: Large Language-Recommendation Assistant" (SIGIR 2024), "hybrid prompting". The token in the
text is a registered special token, the placeholder. Once it is checked that there is one per title, each
placeholder becomes an *item token*: a number beyond the vocabulary that also says which item is meant. Two
prompts are therefore equal exactly if their words and their items are, for every cache and content key alike.
Knows nothing of vectors and models: what an item token means to a model is decided in `llm/vector_tokens.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recbole_soft.errors import DataError, SettingError
from recbole_soft.prompts.encode import PromptEncoder

Tokens = list[int]


@dataclass(frozen=True)
class ItemPromptEncoder:
    """Turns histories of items into prompts with item tokens, and takes these apart again.

    Attributes:
        encoder: words, tokenizer and longest prompt.
        titles: title by item id.
        placeholder: id of the registered special token.
        first_item_token: the item token of item 0; every id from here on is an item token.
    """

    encoder: PromptEncoder
    titles: Sequence[str]
    placeholder: int
    first_item_token: int

    def prompts(self, histories: Sequence[Sequence[int]]) -> list[Tokens]:
        """Prompt tokens per history of item ids, oldest first; the oldest items are left out of overlong prompts.

        The text between two placeholders is encoded apart, which is what a tokenizer does at a special token.

        Raises:
            DataError: a prompt does not have one placeholder per item that is left.
        """
        pieces = _Pieces(self.encoder)
        pieces.read([text for items in histories for text in self._texts(items)])
        return [self._prompt(items, pieces) for items in histories]

    def items_of(self, prompt: Sequence[int]) -> list[int]:
        """Item ids of a prompt, oldest first."""
        return [token - self.first_item_token for token in prompt if token >= self.first_item_token]

    def text_only(self, prompts: Sequence[Sequence[int]]) -> list[Tokens]:
        """The same histories without item tokens: exactly BIGRec's prompts of the items that are left."""
        return self.encoder.prompts([[self.titles[item] for item in self.items_of(prompt)] for prompt in prompts])

    def check_room(self) -> None:
        """Raises SettingError when the words of the template leave no room for a title and its placeholder."""
        template, pieces = self.encoder.template, _Pieces(self.encoder)
        words = sum(len(pieces[text]) for text in (template.head + template.quoted("a"), template.tail))
        needed = len(self.encoder.tokenizer.bos_ids) + words + 1
        if needed > self.encoder.cutoff_len:
            raise SettingError(
                f"cutoff_len={self.encoder.cutoff_len} is too short for any history: the template '{template.name}' "
                f"and a placeholder take {needed - 1} tokens", where="cutoff_len",
                remedy=f"--cutoff_len={needed + 200} or more")

    def _texts(self, items: Sequence[int], oldest_title: str | None = None) -> list[str]:
        """The text before each placeholder, and the text behind the last one."""
        template = self.encoder.template
        titles = [self.titles[item] for item in items]
        if oldest_title is not None:
            titles[0] = oldest_title
        quoted = [template.quoted(title) for title in titles]
        before = [template.head + quoted[0], *(template.separator + title for title in quoted[1:])] if quoted else []
        return [*before, template.tail if quoted else template.head + template.tail]

    def _prompt(self, items: Sequence[int], pieces: _Pieces) -> Tokens:
        for oldest in range(len(items)):
            kept = items[oldest:]
            tokens = self._joined(self._texts(kept), pieces)
            if len(tokens) <= self.encoder.cutoff_len:
                return self._with_items(tokens, kept)
        if not len(items):
            return self._joined(self._texts(items), pieces)
        return self._with_items(self._with_cut_title(items[-1:], pieces), items[-1:])

    def _joined(self, texts: Sequence[str], pieces: _Pieces) -> Tokens:
        tokens = [*self.encoder.tokenizer.bos_ids, *pieces[texts[0]]]
        for text in texts[1:]:
            tokens += [self.placeholder, *pieces[text]]
        return tokens

    def _with_cut_title(self, items: Sequence[int], pieces: _Pieces) -> Tokens:
        """A prompt with the longest beginning of one overlong title that fits (bisection over characters)."""
        title = self.titles[items[0]]
        shortest, longest = 0, len(title)
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            if len(self._joined(self._texts(items, title[:middle]), pieces)) <= self.encoder.cutoff_len:
                shortest = middle
            else:
                longest = middle - 1
        return self._joined(self._texts(items, title[:shortest]), pieces)

    def _with_items(self, tokens: Tokens, items: Sequence[int]) -> Tokens:
        """Item tokens in the places of the placeholders, one each."""
        places = [place for place, token in enumerate(tokens) if token == self.placeholder]
        if len(places) != len(items):
            raise DataError(
                f"a prompt of {len(items)} titles has {len(places)} placeholders: the tokenizer reads one out of a "
                "title", where=" | ".join(self.titles[item] for item in items)[:200],
                remedy="change that title, or use a tokenizer that can leave special tokens in a text alone")
        for place, item in zip(places, items, strict=True):
            tokens[place] = self.first_item_token + int(item)
        return tokens


class _Pieces:
    """Tokens of pieces of text, each encoded once."""

    def __init__(self, encoder: PromptEncoder):
        self._tokenizer, self._tokens = encoder.tokenizer, {}

    def read(self, texts: Sequence[str]) -> None:
        """Encodes many pieces at once, which is faster than one by one."""
        distinct = list(dict.fromkeys(texts))
        self._tokens.update(zip(distinct, self._tokenizer.encode(distinct), strict=True))

    def __getitem__(self, text: str) -> Tokens:
        if text not in self._tokens:
            self._tokens[text] = self._tokenizer.encode([text])[0]
        return self._tokens[text]
