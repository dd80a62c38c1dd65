"""Prompt templates: the words around a history, kept in YAML, one file per domain.

Titles are data: they are joined into a fixed head and tail and are never formatted, so no title can change
the structure of a prompt. Knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from recbole_soft.errors import SettingError

HISTORY_SLOT = "{history}"
SLOTS = ("preamble", "instruction", "input")
Example = tuple[Sequence[str], str]


@dataclass(frozen=True)
class PromptTemplate:
    """Text of a prompt, as in SOFT paper section "Implementation Details" (Alpaca form).

    Attributes:
        name: file name of the template.
        head: text before the history.
        tail: text after the history, up to and including the response marker.
        item: what surrounds a title, holding `{title}` once.
        separator: text between two titles.
        lead: beginning of `head` that is said once, before all demonstrations; the rest of `head` opens each of them.
    """

    name: str
    head: str
    tail: str
    item: str = '"{title}"'
    separator: str = ", "
    lead: str = ""

    @classmethod
    def from_mapping(cls, name: str, mapping: dict[str, str]) -> PromptTemplate:
        """Builds a template from its YAML file.

        Args:
            mapping: `layout` with the slots `{preamble}`, `{instruction}`, `{input}` and `{history}`, the text
                of the first three, and optionally `item` and `separator`.

        Raises:
            SettingError: a missing part or slot.
        """
        missing = {"layout", "instruction", "input"} - mapping.keys()
        if missing:
            raise SettingError(f"the prompt template lacks '{sorted(missing)[0]}'",
                               where=f"properties/prompt/{name}.yaml")
        layout, texts = mapping["layout"], {part: mapping.get(part, "").strip() for part in SLOTS}
        task = layout.find("{instruction}") + len("{instruction}")
        lead = _filled(layout[:task], texts) if 0 < task <= layout.find(HISTORY_SLOT) else ""
        layout = _filled(layout, texts)
        item = mapping.get("item", cls.item)
        if layout.count(HISTORY_SLOT) != 1 or item.count("{title}") != 1:
            raise SettingError("the layout needs {history} once, and item needs {title} once",
                               where=f"properties/prompt/{name}.yaml")
        head, tail = layout.split(HISTORY_SLOT)
        return cls(name, head, tail.rstrip() + "\n", item, mapping.get("separator", cls.separator), lead)

    def prompt(self, history: Sequence[str], demonstrations: Sequence[Example] = ()) -> str:
        """The prompt for a history of titles, oldest first, behind solved examples of the same form."""
        opening = self.head[len(self.lead):]
        solved = [f"{self._asked(opening, shown)}{self.quoted(answer)}" for shown, answer in demonstrations]
        # Layouts without a lead repeat the whole head, which then has to be set off.
        gap = "" if self.lead else "\n\n"
        return self.lead + "".join(block + gap for block in solved) + self._asked(opening, history)

    def _asked(self, opening: str, history: Sequence[str]) -> str:
        return opening + self.separator.join(self.quoted(title) for title in history) + self.tail

    def quoted(self, title: str) -> str:
        """A title as it stands in a prompt and as the model has to answer it."""
        before, after = self.item.split("{title}")
        return before + title + after

    def unquoted(self, answer: str) -> str:
        """The title in an answer: surrounding space and the quotes of `item` removed, when they are there."""
        before, after = (part.strip() for part in self.item.split("{title}"))
        answer = answer.strip()
        if before and answer.startswith(before):
            answer = answer[len(before):]
        if after and answer.endswith(after) and len(answer) >= len(after):
            answer = answer[: -len(after)]
        return answer.strip()

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:16]


def _filled(layout: str, texts: dict[str, str]) -> str:
    for part in SLOTS:
        layout = layout.replace("{" + part + "}", texts[part])
    return layout
