"""The cells of a benchmark: one run each, in the order in which they are run, and what is known of each.

Order: all cells of the first seed, then of the next, so that a whole table is there early. A cell comes after those
whose run it needs; the SFT cell of a model comes after the strategies that begin with the same SFT stage, because
their runs hold its row already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_soft.benchmark.entries import TEACHER, Entry
from recbole_soft.benchmark.recipe import Recipe
from recbole_soft.registry import STRATEGIES, is_llm_name, split_name
from recbole_soft.reporting.methods import deciding_settings
from recbole_soft.reporting.records import RunResult

SFT = "SFT"
SFT_STAGE = "sft"


@dataclass(eq=False)
class Cell:
    """One run: a model with its settings on a data set with a seed.

    Attributes:
        variant: the entry's grid values of this cell.
        settings: all settings, but for those in `entry.needs`, which are known once the needed runs are there.
        result: row that the cell gives, once it is there.
        failure: why it could not be run; None as long as it could.
        seconds: how long it took, or would have taken.
    """

    entry: Entry
    dataset: str
    seed: int
    variant: Mapping[str, Any]
    settings: dict[str, Any]
    needs: dict[str, Cell] = field(default_factory=dict)
    result: RunResult | None = None
    failure: str | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        grid = "".join(f" {key}={value}" for key, value in self.variant.items())
        return f"{self.entry.title}{grid} on {self.dataset}, seed {self.seed}"

    @property
    def is_search(self) -> bool:
        """Whether it is one of the runs among which a grid is decided."""
        return self.entry.choose and self.seed == self.entry.seeds[0]

    def command(self, teachers: Path) -> dict[str, str]:
        """Settings of the run as the words of a command line, without model and data set.

        Args:
            teachers: where exported teachers lie.
        """
        settings = self.settings | {"seed": self.seed}
        for setting, provider in self.needs.items():
            settings[setting] = str(provided_folder(self, setting, provider, teachers))
        return {key: as_text(value) for key, value in settings.items()}


def provided_folder(cell: Cell, setting: str, provider: Cell, teachers: Path) -> Path:
    """Folder that a setting of `cell` names once `provider` has run."""
    result = provider.result
    if result is None:
        raise ValueError(f"{provider.name} has not run yet")
    run = Path(result.run.place)
    if setting == TEACHER:
        options = "".join(f"-{key}{value}" for key, value in sorted(cell.entry.export.items()))
        return teachers / f"{run.name}-{result.stage}{options}"
    return run / result.stage if setting == "sft_adapter" else run


def as_text(value: Any) -> str:
    """A value as a command line takes it."""
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def make_cells(recipe: Recipe) -> list[Cell]:
    """All cells of a recipe in the order in which they are run."""
    cells = []
    for position in range(max(len(entry.seeds) for entry in recipe.entries)):
        for dataset in recipe.datasets:
            of_round = [Cell(entry, dataset, entry.seeds[position], variant,
                             recipe.cell_settings(entry, dataset, variant))
                        for entry in recipe.entries if position < len(entry.seeds) and dataset in entry.datasets
                        for variant in entry.variants]
            of_round.sort(key=lambda cell: strategy_name(cell.entry.model) == SFT)
            cells += of_round
    for cell in cells:
        for setting, model in cell.entry.needs.items():
            cell.needs[setting] = next(other for other in cells if (other.entry.model, other.dataset, other.seed)
                                       == (model, cell.dataset, cell.seed))
    place = {cell: number for number, cell in enumerate(cells)}
    return sorted(cells, key=lambda cell: max(
        [place[cell], *(place[provider] + 0.5 for provider in cell.needs.values())]))


def strategy_name(model: str) -> str | None:
    """Strategy of a model's name; None for models without one."""
    return split_name(model)[1].name if is_llm_name(model) else None


def lends_its_sft_row(lender, borrower) -> bool:
    """Whether a run begins with the very SFT stage that another one consists of.

    Args:
        lender, borrower: settings (SoftConfig) of the two runs; the borrower's strategy is SFT.
    """
    stages = STRATEGIES[lender["strategy"]].load()(lender).stages()
    if len(stages) < 2 or stages[0].name != SFT_STAGE or lender["seed"] != borrower["seed"]:
        return False
    ours, theirs = (deciding_settings(config.final_config_dict, SFT) for config in (borrower, lender))
    return {key: str(value) for key, value in ours.items()} == {key: str(value) for key, value in theirs.items()}
