"""Where a prompt ends and a response begins, in tokens. Training and generation both come here.

The two sides are tokenised apart and then joined, so the boundary does not depend on the tokenizer, and a
response can never lose its first token. Text never produces special tokens, whatever a title says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from recbole_soft.errors import SettingError
from recbole_soft.prompts.template import Example, PromptTemplate


class TextTokenizer(Protocol):
    """What the encoder needs of a tokenizer; `recbole_soft.llm` provides it."""

    bos_ids: list[int]
    eos_id: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, without any special token."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special tokens left out."""


@dataclass(frozen=True)
class PromptEncoder:
    """Turns histories and titles into tokens, and answers back into titles.

    Attributes:
        template: the words.
        tokenizer: see `TextTokenizer`.
        cutoff_len: longest prompt in tokens, beginning-of-text included.
    """

    template: PromptTemplate
    tokenizer: TextTokenizer
    cutoff_len: int = 700

    def prompts(self, histories: Sequence[Sequence[str]]) -> list[list[int]]:
        """Prompt tokens per history; the oldest titles are left out where the prompt would be too long."""
        bodies = self.tokenizer.encode([self.template.prompt(history) for history in histories])
        room = self.cutoff_len - len(self.tokenizer.bos_ids)
        return [
            self.tokenizer.bos_ids + (body if len(body) <= room else self._shortened(history, room))
            for body, history in zip(bodies, histories, strict=True)
        ]

    def demonstrated_prompts(
        self, histories: Sequence[Sequence[str]], demonstrations: Sequence[Sequence[Example]]
    ) -> tuple[list[list[int]], list[int]]:
        """Prompt tokens per history, behind as many of its demonstrations as there is room for.

        Where a prompt would be too long, the first demonstrations are left out, whole ones; when none is left, the
        history loses its oldest titles as without demonstrations.

        Returns:
            The prompts, and how many demonstrations each shows.
        """
        room = self.cutoff_len - len(self.tokenizer.bos_ids)
        prompts, kept = self.prompts(histories), [0] * len(histories)
        waiting = {number: list(shown) for number, shown in enumerate(demonstrations) if shown}
        while waiting:
            numbers = list(waiting)
            bodies = self.tokenizer.encode([self.template.prompt(histories[n], waiting[n]) for n in numbers])
            for number, body in zip(numbers, bodies, strict=True):
                if len(body) <= room:
                    prompts[number], kept[number] = self.tokenizer.bos_ids + body, len(waiting.pop(number))
                elif len(waiting[number]) == 1:
                    waiting.pop(number)
                else:
                    waiting[number] = waiting[number][1:]
        return prompts, kept

    def responses(self, titles: Sequence[str]) -> list[list[int]]:
        """Response tokens per title: the quoted title and the end-of-text token; never cut."""
        bodies = self.tokenizer.encode([self.template.quoted(title) for title in titles])
        return [body + [self.tokenizer.eos_id] for body in bodies]

    def answer(self, tokens: Sequence[int]) -> str:
        """The title that generated tokens spell."""
        return self.template.unquoted(self.tokenizer.decode(tokens))

    def check_room(self) -> None:
        """Raises SettingError when the words of the template leave no room for a title."""
        words = len(self.tokenizer.bos_ids) + len(self.tokenizer.encode([self.template.prompt(["a"])])[0])
        if words > self.cutoff_len:
            raise SettingError(
                f"cutoff_len={self.cutoff_len} is too short for any history: the template '{self.template.name}' "
                f"alone takes {words - 1} tokens", where="cutoff_len", remedy=f"--cutoff_len={words + 200} or more",
            )

    def _shortened(self, history: Sequence[str], room: int) -> list[int]:
        for oldest in range(1, len(history)):
            body = self.tokenizer.encode([self.template.prompt(history[oldest:])])[0]
            if len(body) <= room:
                return body
        return self._cut_title(history[-1], room)

    def _cut_title(self, title: str, room: int) -> list[int]:
        """A prompt with the longest beginning of one overlong title that fits (bisection over characters)."""
        shortest, longest = 0, len(title)
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            if len(self.tokenizer.encode([self.template.prompt([title[:middle]])])[0]) <= room:
                shortest = middle
            else:
                longest = middle - 1
        return self.tokenizer.encode([self.template.prompt([title[:shortest]])])[0][:room]
