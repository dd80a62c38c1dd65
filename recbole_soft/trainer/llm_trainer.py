"""The one training loop: RecBole's `fit` per stage, our epoch inside it.

`Trainer.fit` keeps epochs, validation, early stopping and logging. Overridden are the smallest methods: how
the optimiser is built, how an epoch trains, what a checkpoint holds. There is no branch on a strategy here:
that all strategies share the loop is the control of the experiment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.trainer import Trainer
from tqdm import tqdm

from recbole_soft.errors import ModelError
from recbole_soft.llm.adapters import State
from recbole_soft.models.answer_parts import obtain_answers
from recbole_soft.models.base import LLMRecommender, WindowTexts
from recbole_soft.parallel.gradients import HALF_SCALE, accumulate, divide_gradients
from recbole_soft.parallel.group import check_alike, is_first, world_size
from recbole_soft.registry import split_name
from recbole_soft.resuming.states import tensor_hash
from recbole_soft.strategies.base import Stage, StageContext
from recbole_soft.trainer.batches import epoch_batches, micro_batches, seed_of_draws, warn_of_idle
from recbole_soft.trainer.epoch_line import epoch_line, log_scalars
from recbole_soft.trainer.rank_metrics import direct_ranks, places_of
from recbole_soft.trainer.stage_saves import EpochProgress, StageSaves
from recbole_soft.trainer.stage_weights import StageWeights, lacks_metrics

logger = logging.getLogger("recbole_soft")


class LLMTrainer(Trainer):
    """Trains the stages of a strategy one after the other.

    Attributes:
        curves: one dictionary per epoch: stage, losses by part, what the stage logged, validation, speed.
        notes: what stages add to the run's record.
        stage_reports: per stage, where its weights are, best epoch, seconds, whether they were reused.
        best_state: the best weights so far of the stage that is trained.
        schedule: of its learning rate.
        saves: what is kept for the case that the process is killed.
    """

    def __init__(self, config, model: LLMRecommender):
        super().__init__(config, model)
        self.strategy = split_name(config["model"])[1].load()(config)
        self.stages: list[Stage] = self.strategy.stages()
        self.stage_weights = StageWeights(model, config)
        self.curves: list[dict[str, Any]] = []
        self.notes: dict[str, Any] = {}
        self.stage_reports: dict[str, dict[str, Any]] = {}
        self.loss_scale = HALF_SCALE if config["dtype"] == "float16" else 1.0
        self.stopping_step = config["patience"] - 1  # RecBole stops one epoch after its own count
        self._worst = -np.inf if config["valid_metric_bigger"] else np.inf
        self.best_state: State | None = None
        self.schedule: torch.optim.lr_scheduler.LRScheduler | None = None
        self.saves = StageSaves(self, Path(config["run_folder"]) if config["run_folder"] else None,
                                config["checkpoint_seconds"], config["settings_key"] or "")
        self._stage: Stage | None = None
        self._windows: WindowTexts | None = None
        self._resumed: EpochProgress | None = None

    @property
    def run_folder(self) -> Path:
        return Path(self.config["run_folder"] or Path(self.checkpoint_dir) / Path(self.saved_model_file).stem)

    # ---- stages ----------------------------------------------------------------------------------
    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """RecBole's `fit`, once per stage; returns the last stage's best validation score and result.

        `verbose` and `saved` are RecBole's and have no effect: every epoch is one log line, and the best weights
        of every stage are always kept.
        """
        self.strategy.check_inputs()
        self._windows = self.model.texts_of(train_data.dataset)
        warn_of_idle(world_size(), self.config["train_batch_size"], self.config["micro_batch_size"])
        self._show_progress = show_progress
        # RecBole does it where it trains; a stage that is reused, or trains nothing, has its metrics all the same.
        self.eval_collector.data_collect(train_data)
        for stage in self.stages:
            key = self.stage_weights.key(stage, self._windows, valid_data)
            report = self.saves.restore_finished(stage, key)
            if report is None:
                report = self._obtain_stage(stage, key, train_data, valid_data, callback_fn)
                self.saves.note_finished(stage, key, report)
            self._use(stage.name)
            self.stage_reports[stage.name] = report
        return self.best_valid_score, self.best_valid_result

    def _obtain_stage(self, stage: Stage, key: str, train_data, valid_data, callback_fn) -> dict[str, Any]:
        """Trains a stage or finds its weights, and leaves them in the run folder; returns its report."""
        started = time.perf_counter()
        reused = self.stage_weights.restore(stage, key, train_data.dataset)
        if reused is None:
            self._fit_stage(stage, key, train_data, valid_data, callback_fn)
            self.stage_weights.keep(stage, key, self._summary(stage))
        else:
            self.curves += reused["curves"]
            self.best_valid_score, self.best_valid_result = reused["valid_score"], reused["valid_result"]
        self._use(stage.name)
        is_unknown = np.isnan(self.best_valid_score) and stage is self.stages[-1]  # given weights come without a score
        if reused is not None and (is_unknown or lacks_metrics(self.best_valid_result, self.config)):
            self.best_valid_score, self.best_valid_result = super()._valid_epoch(valid_data)
        # Without a folder the weights are the base model's.
        folder = self.run_folder / stage.name if stage.trains or stage.starts_from else None
        if folder is not None and is_first():
            self.model.weights.save(stage.name, folder)
        return {
            "label": stage.label, "folder": folder and str(folder), "reused": reused is not None, "key": key,
            "seconds": time.perf_counter() - started, "valid_score": float(self.best_valid_score),
            "valid_result": dict(self.best_valid_result or {}),
        }

    def _fit_stage(self, stage: Stage, key: str, train_data, valid_data, callback_fn) -> None:
        self._stage = stage
        self.start_epoch = self.cur_step = 0
        self.best_valid_score, self.best_valid_result = self._worst, None
        self.best_state = None
        self.epochs = self.config["epochs"] if stage.epochs is None else stage.epochs
        self.learning_rate = self.config["learning_rate"] if stage.learning_rate is None else stage.learning_rate
        self.eval_step = min(self.config["eval_step"], self.epochs)
        logger.info("stage '%s': %d windows, up to %d epochs", stage.name, len(self._windows),
                    self.epochs if stage.trains else 0)
        self.model.weights.create(stage.name, self.config["seed"], copy_of=stage.starts_from)
        self.model.forget_answers()
        stage.begin(self._context(stage))
        if not stage.trains:
            if valid_data is not None:
                self.best_valid_score, self.best_valid_result = super()._valid_epoch(valid_data)
            return
        self.optimizer = self._build_optimizer()
        torch.manual_seed(self.config["seed"])
        self._resumed = self.saves.begin(stage, key)
        # The best epoch is always kept: `saved` is about RecBole's own checkpoint file, which we never write.
        super().fit(train_data, valid_data, verbose=False, saved=True, show_progress=False, callback_fn=callback_fn)
        if self.best_state is not None:
            self.model.weights.load_state(stage.name, self.best_state)

    def _context(self, stage: Stage) -> StageContext:
        return StageContext(
            model=self.model, windows=self._windows, config=self.config, store=self.model.store,
            keys=self.stage_weights.keys, switched_to=lambda name: self._switched(name, back_to=stage.name),
            note=self.notes.__setitem__, progress=self._progress,
        )

    @contextmanager
    def _switched(self, name: str, back_to: str) -> Iterator[None]:
        self._use(name)
        try:
            yield
        finally:
            self._use(back_to)

    def _use(self, name: str) -> None:
        self.model.weights.activate(name)
        self.model.forget_answers()

    # ---- RecBole's seams -------------------------------------------------------------------------
    def _build_optimizer(self, **kwargs):
        """AdamW over what is trained, with linear warm-up and then a constant rate."""
        parameters = self.model.weights.parameters() or [torch.nn.Parameter(torch.zeros(()))]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        warmup = self.config["warmup_steps"]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0)
        return optimizer

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """One epoch of the current stage; returns the mean loss."""
        stage, windows = self._stage, self._windows
        done, self._resumed = self._resumed, None
        if done is None:
            row = {"stage": stage.name, "epoch": epoch_idx} | stage.begin_epoch(epoch_idx, self.epochs)
            done = EpochProgress(epoch_idx, row)
        self.model.train()
        started = time.perf_counter() - done.seconds
        batches = epoch_batches(len(windows), self.config["train_batch_size"], self.config["seed"], epoch_idx)
        with self._progress(f"{stage.label} epoch {epoch_idx + 1}/{self.epochs}", len(windows)) as advance:
            advance(sum(map(len, batches[: done.batches])))
            for batch in batches[done.batches:]:
                self.saves.save_if_due(stage, done)
                number = epoch_idx * len(batches) + done.batches
                # A stage that continues another's weights is past any warm-up of the prompts.
                progress = 1.0 if stage.starts_from else number / (self.epochs * len(batches))
                prompts = self.model.prompts_in_training([windows.prompts[row] for row in batch], progress, number)
                parts, batch_tokens = self._step(stage, number, dict(zip(batch, prompts, strict=True)), advance)
                done.add(parts, len(batch), batch_tokens)
                done.seconds = time.perf_counter() - started
        self.saves.save_if_due(stage, done)
        if world_size() > 1:
            check_alike("what was learned", {name: tensor_hash(value) for name, value in
                                             self.model.weights.state(stage.name).items()})
        self.model.forget_answers()
        row = done.row | {name: value / len(windows) for name, value in done.sums.items()} | {
            "train_seconds": done.seconds, "tokens_per_second": done.tokens / done.seconds}
        self.curves.append(row)
        log_scalars(self.tensorboard, row, list(row))
        return row["loss_total"]

    def _step(
        self, stage: Stage, number: int, prompts: dict[int, list[int]], advance: Callable[[int], None]
    ) -> tuple[dict[str, float], int]:
        """Optimiser step `number` of the stage on `prompts`, by row; returns the batch's losses and figures by name,
        and the tokens it read."""
        batch = list(prompts)
        responses = stage.responses(batch)
        batch_tokens = {kind: stage.count_tokens(texts) for kind, texts in responses.items()}
        of_row = {kind: dict(zip(batch, texts, strict=True)) for kind, texts in responses.items()}
        lengths = {row: len(prompts[row]) + sum(len(texts[row]) for texts in of_row.values()) for row in batch}
        self.optimizer.zero_grad(set_to_none=True)

        def backward(micro_batch: int, rows: list[int]) -> dict[str, torch.Tensor]:
            torch.manual_seed(seed_of_draws(self.config["seed"], number, micro_batch))
            scores = self.model.score([prompts[row] for row in rows],
                                      {kind: [texts[row] for row in rows] for kind, texts in of_row.items()},
                                      stage.masked)
            loss = stage.loss(scores, batch_tokens, rows)
            (loss.total * self.loss_scale).backward()
            parts = {f"loss_{name}": value for name, value in {"total": loss.total, **loss.parts}.items()}
            return {name: value.detach() for name, value in {**parts, **loss.figures}.items()}

        parameters = self.model.weights.parameters()
        cut = micro_batches(batch, lengths, self.config["micro_batch_size"])
        found = accumulate(cut, backward, parameters, lambda together: advance(sum(map(len, together))))
        sums = {name: sum(float(of_one[name]) for of_one in found) for name in found[0]}
        self._check_nan(torch.tensor(sums["loss_total"]))
        divide_gradients(parameters, self.loss_scale)
        if self.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, **self.clip_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        stage.end_step()
        return sums, sum(lengths.values())

    def _check_nan(self, loss):
        if not torch.isfinite(loss):
            raise ModelError(f"the training loss of stage '{self._stage.name}' is {float(loss)}",
                             where=f"learning_rate={self.learning_rate}, dtype={self.config['dtype']}",
                             remedy="give a lower --learning_rate, or --dtype=float32 or bfloat16")

    def _valid_epoch(self, valid_data, show_progress=False):
        started = time.perf_counter()
        score, result = super()._valid_epoch(valid_data, show_progress=False)
        row = self.curves[-1]
        row |= {f"valid_{name}": float(value) for name, value in result.items()}
        row["valid_seconds"] = time.perf_counter() - started
        log_scalars(self.tensorboard, row, [name for name in row if name.startswith("valid_")])
        logger.info("%s", epoch_line(row, self.valid_metric))
        # RecBole takes a tie for an improvement; the paper asks for a better epoch.
        return (np.nextafter(score, self._worst) if score == self.best_valid_score else score), result

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """Keeps the best weights of the stage; the base model is never written."""
        self.best_state = self.model.weights.state(self._stage.name)
        if is_first():
            self.model.weights.save(self._stage.name, self.run_folder / self._stage.name)

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """RecBole's `evaluate`, after the model has seen the whole split, to work in length-sorted batches."""
        if load_best_model and model_file:
            self.model.weights.load(self.stages[-1].name, Path(model_file))
            self.model.forget_answers()
        with self._progress("Answers", len(eval_data.dataset)) as advance:
            self.model.prepare(eval_data.dataset.inter_feat, advance)
        ranks = direct_ranks(self.model.eval(), eval_data, self.config["metrics"])
        if ranks is None:
            return super().evaluate(eval_data, load_best_model=False, show_progress=False)
        if hasattr(self.eval_collector, "note"):
            self.eval_collector.note(ranks)
        return self.evaluator.evaluate(places_of(ranks.cpu(), max(self.config["topk"])))

    def evaluate_stage(self, stage_name: str, eval_data) -> dict[str, float]:
        """Evaluates with the weights of one stage, whose answers are kept for other runs that share it."""
        self._use(stage_name)
        if self.model.answers_with_titles:
            with self._progress("Answers", len(eval_data.dataset)) as advance:
                report = self.stage_reports[stage_name]
                report["answers_reused"] = obtain_answers(self.model, eval_data.dataset, advance)
        return self.evaluate(eval_data, load_best_model=False)

    # ---- reporting -------------------------------------------------------------------------------
    def _summary(self, stage: Stage) -> dict[str, Any]:
        return {"curves": [row for row in self.curves if row["stage"] == stage.name],
                "valid_score": float(self.best_valid_score), "valid_result": dict(self.best_valid_result or {})}

    @contextmanager
    def _progress(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        hidden = not getattr(self, "_show_progress", False)
        with tqdm(total=total, desc=title, unit="window", leave=False, disable=hidden) as bar:
            yield bar.update
