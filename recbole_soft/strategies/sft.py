"""SFT: supervised fine-tuning on the true next items (SOFT paper, L_SFT; BIGRec's own training)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recbole_soft.errors import DataError
from recbole_soft.llm.masked_softmax import MaskedSoftmax
from recbole_soft.llm.trie import TokenTrie
from recbole_soft.strategies.base import Responses, Stage, StageContext, Strategy

LOSS_SETTINGS = ("lm_loss", "msl_temperature", "msl_eta")


class SupervisedStage(Stage):
    """Learns the true responses; its weights are the teacher of SOFT and the start of S-DPO."""

    name = "sft"
    label = "SFT"
    is_reusable = True
    depends_on = LOSS_SETTINGS

    def __init__(self, lm_loss: str = "full") -> None:
        self.label = labelled(self.label, lm_loss)

    def begin(self, context: StageContext) -> None:
        super().begin(context)
        self.masked = masked_softmax(context)

    def responses(self, rows: Sequence[int]) -> Responses:
        return {"sft": [self.context.windows.targets[row] for row in rows]}

    def weights(self) -> Mapping[str, float]:
        return {"sft": 1.0}


def labelled(label: str, lm_loss: str) -> str:
    """A stage's row of the table, which names a loss other than the usual one."""
    return label if lm_loss == "full" else f"{label} ({lm_loss.upper()})"


def masked_softmax(context: StageContext) -> MaskedSoftmax | None:
    """The softmax over catalogue titles that `lm_loss: msl` asks for, else None.

    Raises:
        DataError: a single title leaves no choice to learn.
    """
    config, encoder = context.config, context.model.encoder
    if config["lm_loss"] != "msl":
        return None
    titles = [response[:-1] for response in encoder.responses(context.model.catalog.unique_titles)]
    masked = MaskedSoftmax(TokenTrie.build(titles, encoder.tokenizer.eos_id), config["msl_temperature"],
                           config["msl_eta"])
    if not masked.choices:
        raise DataError("lm_loss=msl learns to choose among titles, and there is only one", where=config["dataset"],
                        remedy="use data with more items")
    return masked


class SFT(Strategy):
    """Supervised fine-tuning on the true next items."""

    name = "SFT"
    settings = ()

    def stages(self) -> list[Stage]:
        return [SupervisedStage(self.config["lm_loss"])]
