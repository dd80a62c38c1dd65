"""What an instruct model is asked for a chain of thought about a decision that is known (LLM-CF).

The four considerations are those of Sun et al. (CIKM 2024), in our own words. Titles are inserted, never formatted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

VERSION = 1
CONSIDERATIONS = (
    "who this person is, judging by what they chose before",
    "what the offered item is like, and which other items are related to it",
    "how well the item and the person's taste go together",
    "whether the person may wish for something different this time",
)
_TASK = ("You analyse why people choose what they choose. Be impartial, and consider in turn: "
         + "; ".join(f"({number}) {text}" for number, text in enumerate(CONSIDERATIONS, 1)) + ".")
_DECISIONS = {True: "The person chose it.", False: "The person did not choose it."}


@dataclass(frozen=True)
class ThoughtRequest:
    """A request, and what a good answer is measured with.

    Attributes:
        task: for the system role.
        question: for the user role.
        decision: the sentence that states what is known.
    """

    task: str
    question: str
    decision: str


def thought_request(history: Sequence[str], item: str, was_chosen: bool) -> ThoughtRequest:
    """The request about one decision.

    Args:
        history: titles of earlier choices, oldest first.
        item: title of the item offered.
        was_chosen: what the person did.
    """
    decision = _DECISIONS[was_chosen]
    chosen = "\n".join("- " + title for title in history)
    question = "Chosen before, oldest first:\n" + chosen + "\nOffered now: " + item + "\n" + decision + \
        "\nThink step by step: why?"
    return ThoughtRequest(_TASK, question, decision)
