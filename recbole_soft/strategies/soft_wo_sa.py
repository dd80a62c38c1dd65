"""SOFT without its self-adaptive scheduler: training on the self-distilled set alone (SOFT paper, Table 2)."""

from __future__ import annotations

from recbole_soft.config.schema import Setting
from recbole_soft.curriculum import Constant
from recbole_soft.strategies.base import Stage, Strategy
from recbole_soft.strategies.sft import SupervisedStage
from recbole_soft.strategies.soft import SelfOptimisedStage, check_given_answers, second_label


class SOFTWithoutScheduler(Strategy):
    """SOFT without its scheduler: self-distilled answers only (tau = 1)."""

    name = "SOFT_woSA"
    settings = (
        Setting("sd_target", "str", "raw", "train on the raw answer or on the catalogue title nearest to it",
                choices=("raw", "grounded")),
        Setting("start_from", "str", "base", "where the second stage starts", choices=("base", "sft")),
        Setting("self_distilled", "path", None, "folder of `distill export` with an engine's answers to train on"),
        Setting("engine_pick", "str", "best", "of an engine's n answers, the best, or one drawn for every epoch",
                choices=("best", "all")),
    )

    def check_inputs(self) -> None:
        check_given_answers(self.config)

    def stages(self) -> list[Stage]:
        start = None if self.config["start_from"] == "base" else "sft"
        label = second_label("SOFT w/o SA", self.config)
        second = SelfOptimisedStage(Constant(1.0), self.config["sd_target"], 1, start, label)
        return [SupervisedStage(self.config["lm_loss"]), second]
