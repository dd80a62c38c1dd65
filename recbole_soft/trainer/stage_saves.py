"""What a stage of the training loop needs to go on after kill -9: its state between two batches, and its end.

`StageSaves` knows what there is to save of an `LLMTrainer` and where; when to save is the loop's business, how to
write it is `resuming/checkpoints.py`'s. The order of the data is no part of it: seed and epoch decide it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_soft.artifacts import UNFINISHED, content_key, file_hash, read_json, write_json
from recbole_soft.parallel.group import from_first, is_first
from recbole_soft.resuming.checkpoints import Checkpoint, Checkpoints
from recbole_soft.resuming.states import (
    optimizer_state,
    random_state,
    set_optimizer_state,
    set_random_state,
    with_prefix,
    without_prefix,
)
from recbole_soft.strategies.base import Stage

if TYPE_CHECKING:
    from recbole_soft.trainer.llm_trainer import LLMTrainer

logger = logging.getLogger("recbole_soft")
WEIGHTS, BEST, OPTIMIZER, RANDOM = "weights", "best", "optimizer", "random"


@dataclass
class EpochProgress:
    """How far an epoch is.

    Attributes:
        epoch: its number, from 0.
        row: what the stage logged at its beginning; the beginning of its row of the curves.
        batches: optimiser steps done.
        sums: of losses and figures, weighted by windows.
        tokens: read so far.
        seconds: spent on these steps, by all processes together.
    """

    epoch: int
    row: dict[str, Any]
    batches: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    def add(self, figures: dict[str, float], windows: int, tokens: int) -> None:
        """Counts an optimiser step: its mean losses and figures over so many windows."""
        self.batches, self.tokens = self.batches + 1, self.tokens + tokens
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * windows


class StageSaves:
    """Checkpoints of the stage that is trained, and notes on the stages that are finished.

    Args:
        trainer: whose stages they are.
        folder: of the run; None for no saving (a trainer outside of a run folder).
        identity: hash of the run's settings.
    """

    def __init__(self, trainer: LLMTrainer, folder: Path | None, seconds: float, identity: str):
        self._trainer, self._run_folder, self._identity = trainer, folder, identity
        self._folder = None if folder is None else folder / UNFINISHED
        self._seconds = seconds
        self._checkpoints = Checkpoints(None, seconds, identity)

    # ---- a stage under way -----------------------------------------------------------------------
    def begin(self, stage: Stage, key: str) -> EpochProgress | None:
        """Puts the trainer back to the stage's last checkpoint; None if there is none, and nothing is changed.

        To be called with the stage begun and the optimiser built.
        """
        folder = None if self._folder is None else self._folder / f"training-{stage.name}"
        self._checkpoints = Checkpoints(folder, self._seconds, content_key(run=self._identity, stage=key))
        checkpoint = from_first(self._checkpoints.latest)
        return None if checkpoint is None else self._restore(stage, checkpoint)

    def save_if_due(self, stage: Stage, progress: EpochProgress) -> None:
        """To be called between two batches."""
        if is_first() and self._checkpoints.is_due():
            self._checkpoints.write(*self._state(stage, progress))

    def _state(self, stage: Stage, progress: EpochProgress) -> tuple[dict[str, Any], dict[str, Tensor]]:
        trainer, weights = self._trainer, self._trainer.model.weights
        of_optimizer, moments = optimizer_state(trainer.optimizer)
        of_random, streams = random_state()
        state = {
            "progress": asdict(progress), "stage": stage.state(), "curves": trainer.curves, "notes": trainer.notes,
            "best_valid_score": float(trainer.best_valid_score), "best_valid_result": trainer.best_valid_result,
            "epochs_without_gain": trainer.cur_step, "train_losses": list(trainer.train_loss_dict.items()),
            "schedule": trainer.schedule.state_dict(), OPTIMIZER: of_optimizer, RANDOM: of_random,
        }
        return plain_json(state), {
            **with_prefix(WEIGHTS, weights.state(stage.name)), **with_prefix(BEST, trainer.best_state or {}),
            **with_prefix(OPTIMIZER, moments), **with_prefix(RANDOM, streams)}

    def _restore(self, stage: Stage, checkpoint: Checkpoint) -> EpochProgress:
        trainer, state, tensors = self._trainer, checkpoint.state, checkpoint.tensors
        trainer.model.weights.load_state(stage.name, without_prefix(WEIGHTS, tensors))
        trainer.best_state = without_prefix(BEST, tensors) or None
        stage.restore(state["stage"])
        trainer.curves[:] = state["curves"]
        trainer.notes.update(state["notes"])
        trainer.best_valid_score, trainer.best_valid_result = state["best_valid_score"], state["best_valid_result"]
        trainer.cur_step, trainer.train_loss_dict = state["epochs_without_gain"], dict(state["train_losses"])
        trainer.schedule.load_state_dict(state["schedule"])
        set_optimizer_state(trainer.optimizer, state[OPTIMIZER], without_prefix(OPTIMIZER, tensors))
        progress = EpochProgress(**state["progress"])
        trainer.start_epoch = progress.epoch
        logger.info("stage '%s' goes on in epoch %d after %d batches", stage.name, progress.epoch + 1, progress.batches)
        # Last of all: whatever was rebuilt above may have drawn random numbers.
        set_random_state(state[RANDOM], without_prefix(RANDOM, tensors))
        return progress

    # ---- finished stages -------------------------------------------------------------------------
    def note_finished(self, stage: Stage, key: str, report: dict[str, Any]) -> None:
        """The stage's weights are in the run folder; what else the run needs of it goes beside the checkpoints."""
        if self._folder is None or not stage.trains or not is_first():
            return
        trainer = self._trainer
        write_json(self._note(stage), plain_json({
            "identity": content_key(run=self._identity, stage=key), "report": report, "curves": trainer.curves,
            "notes": trainer.notes, "valid_score": float(trainer.best_valid_score),
            "valid_result": trainer.best_valid_result, "files": self._files(stage)}))
        self._checkpoints.clear()

    def restore_finished(self, stage: Stage, key: str) -> dict[str, Any] | None:
        """Loads a stage that this run has finished before it was interrupted; returns its report, None if it has not.
        """
        note = from_first(lambda: self._noted(stage, key))
        if note is None:
            return None
        trainer = self._trainer
        trainer.model.weights.create(stage.name, trainer.config["seed"])
        trainer.model.weights.load(stage.name, self._run_folder / stage.name)
        trainer.curves[:] = note["curves"]
        trainer.notes.update(note["notes"])
        trainer.best_valid_score, trainer.best_valid_result = note["valid_score"], note["valid_result"]
        logger.info("stage '%s' was finished before the interruption", stage.name)
        return note["report"]

    def _noted(self, stage: Stage, key: str) -> dict[str, Any] | None:
        """The note of a finished stage that is this very one, and whose weights are still there."""
        try:
            note = read_json(self._note(stage)) if self._folder is not None else {}
        except (OSError, ValueError):
            return None
        if note.get("identity") != content_key(run=self._identity, stage=key):
            return None
        if note["files"] != self._files(stage):
            logger.warning("stage '%s': its weights in %s have changed since they were written; it is trained anew",
                           stage.name, self._run_folder / stage.name)
            return None
        return note

    def _note(self, stage: Stage) -> Path:
        return self._folder / f"finished-{stage.name}.json"

    def _files(self, stage: Stage) -> dict[str, str]:
        """Hash of every file of weights, by name."""
        return {path.name: file_hash(path) for path in sorted((self._run_folder / stage.name).glob("*.safetensors"))}


def plain_json(value: Any) -> Any:
    """`value` as JSON gives it back; numbers of numpy and torch become Python's.

    Raises:
        TypeError: JSON has no form for it.
    """
    return json.loads(json.dumps(value, default=_number))


def _number(value: Any) -> Any:
    item = getattr(value, "item", None)
    if item is None or torch.as_tensor(value).numel() != 1:
        raise TypeError(f"{type(value).__name__} cannot be kept in a checkpoint: it is no plain JSON")
    return item()
