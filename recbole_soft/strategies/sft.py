"""SFT: supervised fine-tuning on the true next items (SOFT paper, L_SFT; BIGRec's own training)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recbole_soft.strategies.base import Responses, Stage, Strategy


class SupervisedStage(Stage):
    """Learns the true responses; its weights are the teacher of SOFT and the start of S-DPO."""

    name = "sft"
    label = "SFT"
    is_reusable = True

    def responses(self, rows: Sequence[int]) -> Responses:
        return {"sft": [self.context.windows.targets[row] for row in rows]}

    def weights(self) -> Mapping[str, float]:
        return {"sft": 1.0}


class SFT(Strategy):
    """Supervised fine-tuning on the true next items."""

    name = "SFT"
    settings = ()

    def stages(self) -> list[Stage]:
        return [SupervisedStage()]
