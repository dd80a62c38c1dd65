"""What one entry of the corpus is.

To add a case, add a `Case(...)` to the table of the file it belongs to (`command_line.py`, `settings_files.py`,
`atomic_files.py`, `raw_files.py`, `checkpoints.py`, `surroundings.py`). Nothing else is edited. Paths are relative to
the small world of `world.py`, of which every case gets its own copy:

    data/mine/mine.inter, data/mine/mine.item   a data set, every item followed by its successor
    raw/ratings.csv, raw/items.jsonl            raw Amazon files
    llm/                                        a random language model of two layers
    saved/sft/, saved/pop/                      finished runs: BIGRec_SFT (LoRA of rank 4) and Pop
    store/                                      their artefacts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Change = bytes | str | None | Callable[[bytes], bytes | None]
Surroundings = Callable[[Path], AbstractContextManager]


@dataclass(frozen=True)
class Case:
    """One bad input, and what is said about it.

    Attributes:
        name: what is wrong, in a few words.
        words: settings on top of a small working command; None takes a setting away.
        argv: all words of the command instead.
        files: by path, the new content; a function gets the content as it was; None removes the file.
        cause, place, remedy: a part of each third of the message. `place` is also looked for in the cause, because
            several mistakes are reported together, each with its own place.
        ends: exit code; 2 is a mistake of the user's. With 0 the run goes on, and `says` is somewhere in its output.
        within: surroundings that hold during the command, such as a full disk.
    """

    name: str
    words: Mapping[str, Any] = field(default_factory=dict)
    argv: Sequence[str] | None = None
    files: Mapping[str, Change] = field(default_factory=dict)
    cause: str = ""
    place: str = ""
    remedy: str = ""
    ends: int = 2
    says: str = ""
    within: Surroundings | None = None


def swap(old: str | bytes, new: str | bytes, count: int = -1) -> Callable[[bytes], bytes]:
    """A change of a file: `old` becomes `new`, everywhere or `count` times; `old` has to be there."""
    before, after = (text.encode() if isinstance(text, str) else text for text in (old, new))

    def change(content: bytes) -> bytes:
        assert before in content, f"{before!r} is not in the file that the case changes"
        return content.replace(before, after, count)

    return change


def cut(left: int) -> Callable[[bytes], bytes]:
    """A change of a file: only its first bytes stay."""
    return lambda content: content[:left]


def added(text: str | bytes) -> Callable[[bytes], bytes]:
    """A change of a file: something is put behind its end."""
    return lambda content: content + (text.encode() if isinstance(text, str) else text)
