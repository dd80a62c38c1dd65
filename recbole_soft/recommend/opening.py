"""Opens a finished run again: its data, its model and the weights of its stages, under the run's own settings.

Whatever decides a ranking and is not what it was (data, language model, settings) is refused or put back, never used
silently.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data import data_preparation
from recbole.utils import get_model, init_seed
from safetensors import SafetensorError
from torch import Tensor

from recbole_soft.config.layers import chosen_components, known_settings
from recbole_soft.config.schema import NOT_RESULTS
from recbole_soft.config.soft_config import SoftConfig
from recbole_soft.data.dataset import SPLITS, SoftDataset
from recbole_soft.errors import DataError, ModelError
from recbole_soft.evaluation.injection import recorded_injection
from recbole_soft.models.base import LLMRecommender
from recbole_soft.models.bigrec import BIGRec, Injection
from recbole_soft.models.rerank import Rerank, open_retriever
from recbole_soft.models.traditional import WEIGHTS, with_learned
from recbole_soft.recommend.finished_run import FinishedRun
from recbole_soft.registry import is_llm_name, split_name
from recbole_soft.reporting.record import plain
from recbole_soft.strategies.base import Stage, StageContext

logger = logging.getLogger("recbole_soft")
# Settings that may differ from the run's without deciding a ranking: places, which are looked up anew, and speed.
FREE = frozenset({*NOT_RESULTS, "sft_adapter", "generation_batch_size", "embed_batch_tokens", "micro_batch_size",
                  "gradient_checkpointing"})
DATA_REMEDY = "bring back the files of the run (--data_path=FOLDER), or train again"


class OpenedRun:
    """A run in memory.

    Args:
        given: settings in place of the run's, see `FinishedRun.settings`.

    Attributes:
        run: what was opened.
        config, dataset: its settings and its training split, which holds everybody's sequences.
        model: with the weights of the stage that is switched on.
        stage: its name.
    """

    def __init__(self, run: FinishedRun, given: Mapping[str, Any]):
        self.run = run
        self.config = _config(run, run.settings(given))
        init_seed(self.config["seed"], self.config["reproducibility"])
        data = SoftDataset(self.config)
        _check_items(run, data)
        splits = [loader.dataset for loader in data_preparation(self.config, data)]
        _check_windows(run, splits)
        self.dataset: SoftDataset = splits[0]
        self.stage: str | None = None
        self._of_stage: dict[str, tuple[Any, Injection | None]] = {}
        self._stages: dict[str, Stage] = {}
        if is_llm_name(run.model):
            strategy = split_name(run.model)[1].load()(self.config)
            self._stages = {stage.name: stage for stage in strategy.stages()}
        self.model = (_llm_model if self._stages else _traditional)(run, self.config, self.dataset)

    def switch_to(self, stage: str) -> None:
        """Has the model rank with a stage's weights; they are read when first needed.

        Raises:
            ModelError: the weights are gone or do not fit.
        """
        if stage == self.stage:
            return
        if self._stages:
            model = self.model
            if stage in self._of_stage:
                model.weights.activate(stage)
            else:
                self._begin(stage)
            model.selector, injection = self._of_stage[stage]
            if isinstance(model, BIGRec):
                model.injection = injection
            model.forget_answers()
        self.stage = stage

    @torch.no_grad()
    def scores(self, windows, met: Sequence[np.ndarray]) -> Tensor:
        """[b, n_items] float32 scores as in the run's own test, on the CPU; -inf for padding and what is no candidate.

        Args:
            windows: without targets.
            met: item ids that are no candidates, per window.
        """
        if isinstance(self.model, Rerank):
            self.model.items_before = lambda ids: [met[number] for number in ids]
        try:
            scores = self.model.eval().full_sort_predict(windows.to(self.config["device"]))
        except NotImplementedError as error:
            raise ModelError(f"{self.run.model} cannot score all items at once", where=str(self.run.folder),
                             remedy="choose a run of another model") from error
        scores = scores.float().cpu().view(len(windows), self.dataset.item_num).nan_to_num(nan=-torch.inf)
        scores = scores + 0.0  # a distance of 0 is no score of -0
        scores[:, 0] = -torch.inf
        for row, items in enumerate(met):
            scores[row, torch.from_numpy(items)] = -torch.inf
        return scores

    def _begin(self, name: str) -> None:
        """Reads a stage's weights, and sets up what it does beside them (demonstrations, injection)."""
        model, stage, folder = self.model, self._stages[name], self.run.weights(name)
        model.selector = None
        if folder is None:
            model.weights.create(name, self.config["seed"])
        else:
            model.weights.load(name, folder)
        model.forget_answers()
        if not stage.trains and type(stage).begin is not Stage.begin:
            stage.begin(self._context())
        injection = recorded_injection(self.run.result(name).get("injection"), self.config, self.dataset)
        self._of_stage[name] = model.selector, injection

    def _context(self) -> StageContext:
        model: LLMRecommender = self.model
        return StageContext(model, model.texts_of(self.dataset), self.config, model.store, {}, _never_switched,
                            lambda name, value: None, _no_progress)


@contextmanager
def _no_progress(title: str, total: int):
    advance: Callable[[int], None] = lambda done: None  # noqa: E731
    yield advance


def _never_switched(name: str):
    raise NotImplementedError("a stage that trains nothing has no use for another stage's weights")


def _config(run: FinishedRun, settings: dict[str, Any]) -> SoftConfig:
    """The run's settings; defaults that have changed since then are put back."""
    config = SoftConfig(run.model, run.dataset, config_dict=settings)
    theirs = run.record["config"] | run.record.get("protocol", {})
    ours = known_settings(chosen_components(run.model, settings))
    names = {name for name, setting in ours.items() if setting.kind != "path"} | set(run.record.get("protocol", {}))
    changed = {name: theirs[name] for name in sorted(names - FREE - settings.keys())
               if name in theirs and plain(config[name]) != theirs[name]}
    if changed:
        logger.warning("defaults have changed since the run; its own are used: %s",
                       ", ".join(f"{name}={value}" for name, value in changed.items()))
        config = SoftConfig(run.model, run.dataset, config_dict=settings | changed)
    config["show_progress"] = sys.stderr.isatty()
    return config


def _check_items(run: FinishedRun, data: SoftDataset) -> None:
    """Before windows are cut and sampled, which may fail for data of another size."""
    theirs, items = run.record["data"], data.item_num - 1
    if (data.catalog.fingerprint if data.catalog else None) != theirs["catalogue"]:
        now = "as many, but others" if items == theirs["items"] else f"{items:,} now, {theirs['items']:,} then"
        raise DataError(f"the items of '{run.dataset}' are not those that the run was trained on: {now}",
                        where=data.dataset_path, remedy=DATA_REMEDY)
    if data.counts["rows"] != theirs["counts"]["rows"]:
        raise DataError(f"the interactions of '{run.dataset}' have changed since the run: {data.counts['rows']:,} rows "
                        f"now, {theirs['counts']['rows']:,} then", where=data.dataset_path, remedy=DATA_REMEDY)


def _check_windows(run: FinishedRun, splits: Sequence[SoftDataset]) -> None:
    theirs, data = run.record["data"], splits[0]
    ours = {"interactions": data.interactions_fingerprint()} | {
        name: split.fingerprint() for name, split in zip(SPLITS, splits, strict=True)}
    if changed := [name for name, now in ours.items() if theirs.get(name, now) != now]:
        raise DataError(f"the interactions of '{run.dataset}' have changed since the run ({', '.join(changed)})",
                        where=data.dataset_path, remedy=DATA_REMEDY)


def _traditional(run: FinishedRun, config: SoftConfig, dataset: SoftDataset):
    try:
        return with_learned(config, dataset, run.folder)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"the weights of {run.model} cannot be used: {cause}", where=str(run.folder / WEIGHTS),
                         remedy="copy the whole run folder, or train again") from error


def _llm_model(run: FinishedRun, config: SoftConfig, dataset: SoftDataset) -> LLMRecommender:
    model = get_model(config["model"])(config, dataset)
    _check_language_model(run, model)
    if isinstance(model, Rerank):
        recorded = run.record["notes"]["rerank"]["retriever_folder"]
        model.retriever = open_retriever(Path(run.path(recorded)), dataset)
    return model.eval()


def _check_language_model(run: FinishedRun, model: LLMRecommender) -> None:
    """The same model; where the machine gives it another precision, the same files."""
    theirs, now = run.record["language_model"], model.backbone.model
    if model.base_fingerprint == theirs["base_fingerprint"]:
        return
    is_same_place = Path(now.name_or_path).name == Path(str(theirs["path"])).name
    device = str(run.record["config"].get("device", "")).split(":")[0]
    is_other_precision = device != model.backbone.device.type and model.options["dtype"] == "auto"
    if is_same_place and is_other_precision and model.backbone.tokenizer.fingerprint == theirs["tokenizer"]:
        logger.warning("the run was on %s: the language model has another precision here, so rankings may differ a "
                       "little", device)
        return
    raise ModelError("the language model is not the one that the run was trained on", where=now.name_or_path,
                     remedy=f"the run used {theirs['path']}; give its folder of today: --llm_path=FOLDER")
