"""The self-distilled set: what the fine-tuned model itself answers to the training prompts.

SOFT paper, section "Self-Distillation": D_hat = {(x, y_hat)} with the prompts x of the real training set and
y_hat the best of 4 beams of the SFT model. Kept as readable JSON lines. Takes answers and vectors, not models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import write_lines

EXAMPLES_FILE = "examples_distilled.jsonl"


@dataclass(frozen=True)
class GroundedAnswer:
    """What a model answered to one window, beside the true item.

    Attributes:
        target: title of the true item.
        answer: raw text of the model, quotes and all.
        grounded: the catalogue title nearest to the answer.
        distance: L2 distance between the vectors of answer and target.
        is_title: whether the answer is a catalogue title.
        category_matches: whether the grounded title's category is the target's; None without categories.
    """

    target: str
    answer: str
    grounded: str
    distance: float
    is_title: bool
    category_matches: bool | None

    @property
    def is_hit(self) -> bool:
        return self.grounded == self.target


@dataclass(frozen=True)
class DistilledWindow(GroundedAnswer):
    """One line of the artefact.

    Attributes:
        window_id: the split's own id of the window.
        prompt: text of the prompt.
    """

    window_id: int
    prompt: str


def summarise(windows: Sequence[GroundedAnswer]) -> dict[str, float | int | None]:
    """Figures about answers: of a self-distilled set, whether it is what SOFT needs (easy, valid, close in category).

    `category_accuracy` against `hr_at_1` is the paper's Figure 2: many answers of the right category, few hits.
    """
    count = len(windows)
    judged = [window.category_matches for window in windows if window.category_matches is not None]
    return {
        "windows": count,
        "hr_at_1": sum(window.is_hit for window in windows) / count,
        "category_accuracy": sum(judged) / len(judged) if judged else None,
        "valid_titles": sum(window.is_title for window in windows) / count,
        "distinct_answers": len({window.answer for window in windows}),
        "mean_distance": sum(window.distance for window in windows) / count,
    }


def write_distilled(path: Path, windows: Sequence[DistilledWindow]) -> None:
    """Writes one JSON line per window, atomically."""
    write_lines(path, ({"window_id": window.window_id, "prompt": window.prompt, **asdict(window)}
                       for window in windows))


def copy_first(made: Mapping[str, Any] | None, folder: Path, count: int) -> None:
    """Puts the first lines of a self-distilled set into a run folder; `made` is the run's note about it, if any."""
    if made and count:
        write_distilled(folder / EXAMPLES_FILE, read_distilled(Path(made["file"]))[:count])


def read_distilled(path: Path) -> list[DistilledWindow]:
    """Reads what `write_distilled` wrote (`splitlines` would also break at characters that JSON leaves as they are)."""
    return [DistilledWindow(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
