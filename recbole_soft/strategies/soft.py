"""SOFT: Self-Optimized Fine-Tuning (arXiv 2505.20771).

The SFT model answers the training prompts; a fresh model then learns from these easier answers and moves to
the true ones as its own answers get closer to them:

    L = (1 - tau) L_SFT + tau L_SDFT,     tau_t = min(1, exp(alpha (d_t / d_0 - 1)))

d_t is the mean L2 distance between answer and target over a fixed sample of training windows before epoch t,
d_0 the same before the first step, so that tau = 1 in the first epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any

import torch

from recbole_soft.artifacts import content_key
from recbole_soft.config.schema import Setting
from recbole_soft.curriculum import SCHEDULES, EpochSignal, Schedule, make_schedule
from recbole_soft.data.windows import sample_rows
from recbole_soft.distill import DistilledWindow, read_distilled, summarise, write_distilled
from recbole_soft.engine_exchange import read_answers, read_export
from recbole_soft.models.answer_parts import SEARCH_SETTINGS
from recbole_soft.models.grounded_answers import ground_answers
from recbole_soft.parallel.group import shared_out
from recbole_soft.strategies.base import Responses, Stage, StageContext, Strategy
from recbole_soft.strategies.engine_answers import EngineAnswers, draw
from recbole_soft.strategies.sft import LOSS_SETTINGS, SupervisedStage, labelled, masked_softmax

logger = logging.getLogger("recbole_soft")
# A weight below float32's resolution cannot change a float32 loss: its term is not computed.
NEGLIGIBLE = torch.finfo(torch.float32).eps
DISTILLED_FILE = "self_distilled.jsonl"


class SelfOptimisedStage(Stage):
    """Trains on self-distilled and true responses, mixed by a schedule."""

    name = "soft"
    label = "SOFT"

    depends_on = LOSS_SETTINGS

    def __init__(self, schedule: Schedule, sd_target: str, distance_sample: int, starts_from: str | None, label: str):
        self.schedule, self.sd_target, self.distance_sample = schedule, sd_target, distance_sample
        self.starts_from, self.label = starts_from, label
        self.tau = 1.0
        self._first_distance: float | None = None
        self._epoch = 0

    def begin(self, context: StageContext) -> None:
        super().begin(context)
        windows = obtain_distilled(context)
        context.note("self_distillation", summarise(windows))
        texts = [context.model.encoder.template.quoted(window.grounded) if self.sd_target == "grounded"
                 else window.answer for window in windows]
        eos = context.model.backbone.tokenizer.eos_id
        answers = [tokens + [eos] for tokens in context.model.backbone.tokenizer.encode(texts)]
        # One answer per window, or several, one of which is drawn for every epoch (`engine_pick: all`).
        count = len(context.windows)
        self._choices = [answers[first: first + count] for first in range(0, len(answers), count)]
        self._distilled = self._choices[0]
        self.masked = masked_softmax(context)
        if self.masked is not None:
            choices, outside = self.masked.count(answers)
            context.note("msl", {"self_distilled_choices": choices, "of_them_over_whole_vocabulary": outside})
            logger.info("MSL: %d of %d choices in the self-distilled answers lie outside of the catalogue and are "
                        "scored over the whole vocabulary", outside, choices)
        self._watched = sample_rows(len(context.windows), self.distance_sample, context.config["sample_seed"]).tolist()

    def begin_epoch(self, epoch: int, epochs: int) -> dict[str, float]:
        distance = self._mean_distance() if self.schedule.needs_distance else None
        if self._first_distance is None:
            self._first_distance = distance
        self.tau = self.schedule.weight(EpochSignal(epoch, epochs, distance, self._first_distance))
        self._draw(epoch)
        figures = {"tau": self.tau} | ({} if distance is None else {"distance": distance})
        return figures | super().begin_epoch(epoch, epochs)

    def state(self) -> dict[str, Any]:
        return super().state() | {"tau": self.tau, "first_distance": self._first_distance, "epoch": self._epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.tau, self._first_distance = state["tau"], state["first_distance"]
        self._draw(state["epoch"])

    def _draw(self, epoch: int) -> None:
        """Where there are several answers per window, those of this epoch."""
        self._epoch = epoch
        if len(self._choices) > 1:
            self._distilled = draw(self._choices, self.context.config["seed"], epoch)

    def responses(self, rows: Sequence[int]) -> Responses:
        kinds = {"sft": self.context.windows.targets, "sdft": self._distilled}
        return {kind: [kinds[kind][row] for row in rows] for kind in self.weights()}

    def weights(self) -> Mapping[str, float]:
        weights = {"sft": 1.0 - self.tau, "sdft": self.tau}
        return {kind: weight for kind, weight in weights.items() if weight > NEGLIGIBLE}

    def _mean_distance(self) -> float:
        """d_t: mean distance between the current model's answers and their targets over the watched windows."""
        model, windows = self.context.model, self.context.windows
        prompts = [windows.prompts[row] for row in self._watched]
        with self.context.progress("Distance to targets", len(prompts)) as advance:
            model.answer(prompts, advance)
        titles = model.answered_titles(prompts)
        model.title_vectors.table()  # made together, before each process does its share alone

        def distances_of(places: Sequence[int]) -> list[float]:
            answers = model.title_vectors.lookup([titles[place] for place in places])
            targets = model.title_vectors.table()[windows.target_rows[[self._watched[place] for place in places]]]
            return (answers - targets).norm(dim=1).tolist()

        distances = shared_out(range(len(titles)), distances_of)
        return fsum(distances) / len(distances)


def obtain_distilled(context: StageContext) -> list[DistilledWindow]:
    """The self-distilled set of the SFT stage, from the store or made now: one line per training window.

    Of an engine's answers with `engine_pick: all` there are as many lines per window as answers, block by block.
    """
    model, beams, folder = context.model, context.model.beams, context.config["self_distilled"]
    engine = EngineAnswers(context, Path(folder), context.config["engine_pick"]) if folder else None
    key = content_key(
        teacher=engine.deciding() if engine else context.keys["sft"],
        scale=context.config["lora_alpha"], base=model.base_fingerprint,
        prompts=context.windows.prompts, targets=context.windows.target_titles, catalogue=model.catalog.fingerprint,
        beams=beams.num_beams, longest=beams.max_new_tokens, length_penalty=beams.length_penalty,
        pooling=context.config["embed_pooling"], ends=model.backbone.ends,
        search=[context.config[name] for name in SEARCH_SETTINGS], device=context.config["device"].type)

    def make(folder: Path) -> dict:
        answers = engine.texts() if engine else [_distil(context)]
        windows = [window for texts in answers for window in _described(context, texts)]
        write_distilled(folder / DISTILLED_FILE, windows)
        return summarise(windows)

    folder, reused = context.store.obtain("self-distilled", key, make, together=True)
    context.note("self_distilled_set", {"file": str(folder / DISTILLED_FILE), "reused": reused,
                                        "engine": engine and engine.about()})
    return read_distilled(folder / DISTILLED_FILE)


def _distil(context: StageContext) -> list[str]:
    model, windows = context.model, context.windows
    with context.switched_to("sft"), context.progress("Self-distillation", len(windows)) as advance:
        return model.answer(windows.prompts, advance)


def _described(context: StageContext, answers: Sequence[str]) -> list[DistilledWindow]:
    model, windows = context.model, context.windows
    grounded = ground_answers(model, answers, windows.target_titles, windows.target_categories, windows.target_rows)
    return [DistilledWindow(**vars(answer), window_id=window, prompt=model.prompt_text(prompt))
            for answer, window, prompt in zip(grounded, windows.window_ids, windows.prompts, strict=True)]


class SOFT(Strategy):
    """Self-optimized fine-tuning: self-distilled answers first, true ones as the model gets closer."""

    name = "SOFT"
    settings = (
        Setting("schedule", "str", "exponential", "how the weight of the self-distilled set falls",
                choices=("exponential", "linear", "cosine", "constant")),
        Setting("sd_target", "str", "raw", "train on the raw answer or on the catalogue title nearest to it",
                choices=("raw", "grounded")),
        Setting("distance_sample", "int", 256, "training windows on which d_t is measured", low=1),
        Setting("start_from", "str", "base", "where the second stage starts", choices=("base", "sft")),
        Setting("self_distilled", "path", None, "folder of `distill export` with an engine's answers to train on"),
        Setting("engine_pick", "str", "best", "of an engine's n answers, the best, or one drawn for every epoch",
                choices=("best", "all")),
    )

    def stages(self) -> list[Stage]:
        return [SupervisedStage(self.config["lm_loss"]), self.second_stage()]

    def check_inputs(self) -> None:
        check_given_answers(self.config)

    def second_stage(self) -> SelfOptimisedStage:
        config = self.config
        own = {setting.name: config[setting.name] for cls in SCHEDULES.values() for setting in cls.settings}
        schedule = make_schedule(config["schedule"], own)
        start = None if config["start_from"] == "base" else "sft"
        return SelfOptimisedStage(schedule, config["sd_target"], config["distance_sample"], start,
                                  second_label(self.name, config))


def check_given_answers(config) -> None:
    """Raises DataError where `self_distilled` names a folder whose answers are not all there."""
    if config["self_distilled"]:
        read_answers(read_export(Path(config["self_distilled"])))


def second_label(name: str, config) -> str:
    """Row of the table; answers of an engine are no beams of ours, and the row says so."""
    label = labelled(name, config["lm_loss"])
    return f"{label}, engine's answers" if config["self_distilled"] else label
