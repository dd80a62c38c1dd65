"""RecBole's `fit` for its own models, so that it goes on after kill -9 with the numbers of an uninterrupted run.

RecBole's `resume_checkpoint` is a pickle, and it forgets the random streams, the order of the data and the best
weights. Here the state before an epoch is saved without a pickle, and the best weights are kept in memory and in the
checkpoints. An epoch is the smallest unit: within one, the loop is RecBole's own.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recbole_soft.models.traditional import OTHER, learned_state, load_learned
from recbole_soft.resuming.checkpoints import Checkpoint, Checkpoints
from recbole_soft.resuming.states import (
    optimizer_state,
    random_state,
    set_optimizer_state,
    set_random_state,
    with_prefix,
    without_prefix,
)

logger = logging.getLogger("recbole_soft")
WEIGHTS, BEST, OPTIMIZER, RANDOM, ORDER = "weights", "best", "optimizer", "random", "order"


class ResumableTraining:
    """One training of a RecBole model.

    Args:
        trainer: RecBole's, just made; it writes no checkpoint of its own.
        saves: checkpoints of this very training.

    Attributes:
        valid_scores: validation score of every epoch that had one.
    """

    def __init__(self, trainer, saves: Checkpoints):
        self.trainer, self._saves = trainer, saves
        self.valid_scores: dict[int, float] = {}
        self._best: _Snapshot | None = None
        self._random: tuple[dict[str, Any], dict[str, Tensor]] | None = None
        self._is_finished = False
        self._train_epoch = trainer._train_epoch
        trainer._train_epoch = self._saved_epoch
        trainer._save_checkpoint = self._keep_best

    def fit(self, train_data, valid_data, saved: bool = True, show_progress: bool = False,
            after_epoch: Callable[[int, float], None] | None = None) -> tuple[float, dict[str, float] | None]:
        """Trains, or goes on training; leaves the best weights in the model if `saved`, else the last.

        Args:
            after_epoch: told of every validated epoch and its score.

        Returns:
            RecBole's best validation score and result.
        """
        self._order: torch.Generator | None = getattr(train_data, "generator", None)

        def note(epoch: int, score: float) -> None:
            self.valid_scores[epoch] = float(score)
            if after_epoch is not None:
                after_epoch(epoch, score)

        checkpoint = self._saves.latest()
        if checkpoint is not None:
            self._restore(checkpoint)
        if not self._is_finished:
            self.trainer.fit(train_data, valid_data, verbose=False, saved=saved, show_progress=show_progress,
                             callback_fn=note)
            self._is_finished = True
            self._save_if_due(self.trainer.epochs)
        else:
            self.trainer.eval_collector.data_collect(train_data)  # RecBole does it where it trains
        if self._best is not None:
            self._best.put_back(self.trainer.model)
        return self.trainer.best_valid_score, self.trainer.best_valid_result

    # ---- in RecBole's places ---------------------------------------------------------------------
    def _saved_epoch(self, train_data, epoch: int, *arguments, **named):
        if self._random is not None:
            set_random_state(*self._random)
            self._random = None
        self._save_if_due(epoch)
        return self._train_epoch(train_data, epoch, *arguments, **named)

    def _keep_best(self, epoch: int, verbose: bool = True, **_named) -> None:
        self._best = _Snapshot(self.trainer.model)

    # ---- checkpoints -----------------------------------------------------------------------------
    def _save_if_due(self, epoch: int) -> None:
        if not self._saves.is_due() or not _Snapshot(self.trainer.model).is_plain:
            return
        trainer = self.trainer
        of_optimizer, moments = optimizer_state(trainer.optimizer)
        of_random, streams = random_state()
        order = {} if self._order is None else {ORDER: self._order.get_state()}
        state = {
            "epoch": epoch, "is_finished": self._is_finished, "valid_scores": list(self.valid_scores.items()),
            "train_losses": list(trainer.train_loss_dict.items()), "epochs_without_gain": int(trainer.cur_step),
            "best_valid_score": float(trainer.best_valid_score),
            "best_valid_result": trainer.best_valid_result and
            {name: float(value) for name, value in trainer.best_valid_result.items()},
            OPTIMIZER: of_optimizer, RANDOM: of_random,
        }
        self._saves.write(state, {
            **with_prefix(WEIGHTS, learned_state(trainer.model)), **order, **with_prefix(RANDOM, streams),
            **with_prefix(BEST, {} if self._best is None else self._best.tensors), **with_prefix(OPTIMIZER, moments)})

    def _restore(self, checkpoint: Checkpoint) -> None:
        trainer, state, tensors = self.trainer, checkpoint.state, checkpoint.tensors
        best = without_prefix(BEST, tensors)
        if best:
            load_learned(trainer.model, best)
            self._best = _Snapshot(trainer.model)
        load_learned(trainer.model, without_prefix(WEIGHTS, tensors))
        set_optimizer_state(trainer.optimizer, state[OPTIMIZER], without_prefix(OPTIMIZER, tensors))
        trainer.start_epoch, trainer.cur_step = state["epoch"], state["epochs_without_gain"]
        trainer.best_valid_score, trainer.best_valid_result = state["best_valid_score"], state["best_valid_result"]
        trainer.train_loss_dict, self.valid_scores = dict(state["train_losses"]), dict(state["valid_scores"])
        self._is_finished = state["is_finished"]
        if self._order is not None:
            self._order.set_state(tensors[ORDER])
        self._random = state[RANDOM], without_prefix(RANDOM, tensors)
        logger.info("training goes on after %d epochs", len(trainer.train_loss_dict))


class _Snapshot:
    """A copy of what a model has learned.

    Attributes:
        tensors: its weights and the tensors that it keeps beside them.
        is_plain: whether that is all. Some models keep other things, which only memory holds.
    """

    def __init__(self, model: nn.Module):
        self.tensors = learned_state(model)
        self._others = {name: copy.deepcopy(value) for name, value in model.other_parameter().items()
                        if f"{OTHER}{name}" not in self.tensors and not isinstance(value, nn.Module)}
        self.is_plain = all(value is None for value in self._others.values())

    def put_back(self, model: nn.Module) -> None:
        """Gives it to the model it was taken from."""
        for name, value in self._others.items():
            setattr(model, name, value)
        model.load_state_dict({name: value for name, value in self.tensors.items() if not name.startswith(OTHER)})
        for name in model.other_parameter():
            if f"{OTHER}{name}" in self.tensors:
                setattr(model, name, self.tensors[f"{OTHER}{name}"].to(model.device))
