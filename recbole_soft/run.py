"""A whole run: settings, data, model, training, test, record, table. The only module that composes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_soft import plugin
from recbole_soft.artifacts import UNFINISHED, content_key, disk_errors, file_hash, make_folder
from recbole_soft.companions import companion_folder
from recbole_soft.data.sources import find_dataset
from recbole_soft.errors import DataError
from recbole_soft.parallel.group import check_alike, from_first, start, world_size
from recbole_soft.registry import is_llm_name
from recbole_soft.reporting.record import (
    RECORD_FILE,
    commit,
    machine,
    peak_memory,
    plain,
    versions,
    write_record,
    write_rows,
    write_table,
)
from recbole_soft.reporting.table import result_table
from recbole_soft.run_folders import alone_in, finished_record, kept_while_unfinished, run_folder
from recbole_soft.run_log import log_to, tensorboard_in

logger = logging.getLogger("recbole_soft")
REPORTED_CUTOFFS = (1, 5, 10, 20, 50)


def run_recbole_soft(
    model: str,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command_line: Mapping[str, str] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Trains and tests a model under the project's protocol.

    Args:
        model: such as `BIGRec_SOFT`, or a RecBole model such as `SASRec`.
        dataset: name of a data set.
        config_file_list, config_dict, command_line: the user's settings, weakest first.
        saved: whether RecBole keeps the best checkpoint of a traditional model.

    Returns:
        RecBole's result dictionary (`best_valid_score`, `best_valid_result`, `test_result`, ...) and `record`,
        `record_path` and `table`.

    Raises:
        UserError: anything the user can mend; settings are checked before data or model is loaded.
    """
    plugin.install()
    from recbole_soft.config.soft_config import SoftConfig

    config = SoftConfig(model, dataset, config_file_list, config_dict, command_line)
    start(config["world_size"], config["model"], is_llm_name(config["model"]))
    folder = from_first(lambda: make_folder(run_folder(config)))
    with alone_in(folder), log_to(folder / "run.log", config["state"]):
        return _run_in(folder, config, saved)


def _run_in(folder: Path, config, saved: bool) -> dict[str, Any]:
    """A run in its folder, from where an interrupted one ended if that is wanted."""
    config["run_folder"] = str(folder)
    with kept_while_unfinished(config, folder) as goes_on, tensorboard_in(folder / "tensorboard"):
        return _run(config, folder, saved, is_new=not goes_on)


def _run(config, folder: Path, saved: bool, is_new: bool) -> dict[str, Any]:
    from recbole.data import data_preparation
    from recbole.utils import init_seed

    from recbole_soft.data.dataset import SoftDataset

    clock = _Clock()
    init_seed(config["seed"], config["reproducibility"])
    from_first(lambda: find_dataset(config["dataset"], str(Path(config["data_path"]).parent)))
    data = SoftDataset(config)
    _fit_cutoffs(config, data.item_num)
    splits = data_preparation(config, data)
    check_alike("the data set, as split and sampled,", _about_data(data, splits))
    clock.lap("data")
    logger.info("%s: %s", config["dataset"], ", ".join(f"{name.replace('_', ' ')} {count:,}"
                                                       for name, count in data.counts.items()))
    if config["resume"] and is_new:
        finished = finished_record(folder, config["settings_key"], plain(_about_data(data, splits)))
        if finished is not None:
            logger.info("this run is finished already; its record is shown. Without --resume it would start anew")
            return _returned(finished, folder / RECORD_FILE)
    runner = _run_llm if is_llm_name(config["model"]) else _run_traditional
    outcome = runner(config, splits, folder, saved, clock)
    # The times of a run that was interrupted are those of its last process.
    record = plain(_record(config, data, splits, outcome, clock) | {"was_interrupted": not is_new})
    path = write_record(folder, record)
    write_rows(folder / "curves.csv", outcome["curves"])
    write_table(folder, result_table(record))
    return _returned(record, path) | {name: outcome[name] for name in (
        "best_valid_score", "best_valid_result", "test_result")}


def _returned(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a run returns, from its record, after showing the table."""
    table = result_table(record)
    logger.info("\n%s\nrecord: %s", table, path)
    return {
        "best_valid_score": record["best_valid_score"], "valid_score_bigger": record["config"]["valid_metric_bigger"],
        "best_valid_result": record["best_valid_result"], "test_result": record["recbole_test_result"],
        "record": record, "record_path": str(path), "table": table,
    }


def _fit_cutoffs(config, item_num: int) -> None:
    """Leaves out cut-offs beyond a small catalogue, where RecBole would stop with an exception."""
    needed = int(config["valid_metric"].partition("@")[2] or 1)
    if needed > item_num:
        raise DataError(f"{config['valid_metric']} decides between epochs, but the number of items is {item_num - 1}",
                        where=config["dataset"],
                        remedy="use more data, or for instance --valid_metric=Hit@1 --topk=[1]")
    kept = [k for k in config["topk"] if k <= item_num]
    if kept != config["topk"]:
        logger.warning("only %d items: cut-offs %s of %s are used", item_num - 1, kept, config["topk"])
        config["topk"] = kept


def _run_llm(config, splits, folder: Path, saved: bool, clock: _Clock) -> dict[str, Any]:
    from recbole.utils import get_model

    from recbole_soft.evaluation.ranks import RankRecorder
    from recbole_soft.trainer.llm_trainer import LLMTrainer

    train, valid, test = splits
    model = get_model(config["model"])(config, train.dataset)
    clock.lap("model")
    if config["retriever"]:
        model.retriever = _retriever(config, splits, model.store.root / "retrievers")
        clock.lap("retriever")
    trainer = LLMTrainer(config, model)
    trainer.eval_collector = recorder = RankRecorder(trainer.eval_collector)
    best_score, best_result = trainer.fit(train, valid, saved=saved, show_progress=config["show_progress"])
    clock.lap("training")
    results = []
    for stage in trainer.stages:
        injection = _injection(config, trainer, stage.name, splits)
        test_result = trainer.evaluate_stage(stage.name, test)
        results.append(_result(f"{model.name} {stage.label}", stage.name, recorder.last, config, folder)
                       | {"injection": injection})
    clock.lap("test")
    return {
        "best_valid_score": best_score, "best_valid_result": best_result, "test_result": test_result,
        "results": results, "curves": trainer.curves, "stages": trainer.stage_reports,
        "notes": trainer.notes | model.notes_on(test.dataset.inter_feat),
        "model": {"base_fingerprint": model.base_fingerprint, "parameters": model.base_parameters,
                  "tokenizer": model.backbone.tokenizer.fingerprint,
                  "template": model.encoder.template.fingerprint, "path": model.backbone.model.name_or_path,
                  **model.about()},
    }


def _injection(config, trainer, stage_name: str, splits) -> dict[str, Any] | None:
    """Sets the model's injection for a stage, gamma chosen on validation; None when there is none."""
    if config["injection"] == "none":
        return None
    from recbole_soft.evaluation.injection import tune_injection
    from recbole_soft.grounding import popularity
    from recbole_soft.models.traditional import load_traditional

    train, valid, _ = splits
    model = trainer.model
    if config["injection"] == "popularity":
        counts = popularity(train.dataset.all_targets, model.n_items).to(config["device"])
        prior = lambda interaction: counts  # noqa: E731
    else:
        prior = load_traditional(Path(config["injection_model_file"]), train.dataset).full_sort_predict
    model.injection = None
    trainer.evaluate_stage(stage_name, valid)
    return tune_injection(model, valid, prior, config["valid_metric"], config["injection_gamma"])


def _retriever(config, splits, root: Path):
    """The traditional model that proposes candidates."""
    from recbole_soft.models.rerank import Retriever
    from recbole_soft.models.traditional import load_traditional

    folder = from_first(lambda: companion_folder(
        config, "retriever", splits, root, lambda *arguments: _trained(config["dataset"], *arguments)))
    model = load_traditional(folder, splits[0].dataset, "retriever")
    return Retriever(type(model).__name__, str(folder), file_hash(folder / "model.safetensors"),
                     model.full_sort_predict)


def _trained(dataset: str, model: str, settings: Mapping[str, Any], only_where: bool) -> Path:
    """Trains a model inside a run of another (see `companion_folder`); its messages go where that run's go."""
    from recbole_soft.config.soft_config import SoftConfig

    config = SoftConfig(model, dataset, config_dict=settings)
    folder = run_folder(config)
    if not only_where:
        with alone_in(make_folder(folder)):
            _run_in(folder, config, saved=True)
    return folder


def _run_traditional(config, splits, folder: Path, saved: bool, clock: _Clock) -> dict[str, Any]:
    from recbole.utils import get_model, get_trainer, init_seed
    from safetensors.torch import save_file

    from recbole_soft.evaluation.ranks import RankRecorder
    from recbole_soft.models.recbole_training import ResumableTraining
    from recbole_soft.models.traditional import learned_state
    from recbole_soft.resuming.checkpoints import Checkpoints

    train, valid, test = splits
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = get_model(config["model"])(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector = recorder = RankRecorder(trainer.eval_collector)
    training = ResumableTraining(trainer, Checkpoints(
        folder / UNFINISHED / "training", config["checkpoint_seconds"],
        content_key(run=config["settings_key"], train=train.dataset.fingerprint(), valid=valid.dataset.fingerprint())))

    def note_epoch(epoch: int, score: float) -> None:
        logger.info("epoch %d: loss %.4f, valid %s %.4f", epoch + 1, trainer.train_loss_dict[epoch], metric, score)

    metric = config["valid_metric"].lower()
    with disk_errors(folder):
        best_score, best_result = training.fit(train, valid, saved, config["show_progress"], note_epoch)
    clock.lap("training")
    test_result = trainer.evaluate(test, load_best_model=False)
    clock.lap("test")
    with disk_errors(folder):
        save_file(learned_state(model), folder / "model.safetensors")
    scores = training.valid_scores
    curves = [{"stage": "train", "epoch": epoch, "loss_total": loss, f"valid_{metric}": scores.get(epoch)}
              for epoch, loss in trainer.train_loss_dict.items()]
    return {
        "best_valid_score": best_score, "best_valid_result": best_result, "test_result": test_result,
        "results": [_result(config["model"], "test", recorder.last, config, folder)], "curves": curves,
        "stages": {}, "notes": getattr(model, "notes", {}),
        "model": {"parameters": sum(parameter.numel() for parameter in model.parameters())},
    }


def _result(label: str, stage: str, ranks: np.ndarray, config, folder: Path) -> dict[str, Any]:
    """Metrics of a row of the table; the ranks go to a file for significance tests."""
    from recbole_soft.evaluation.ranks import metric_table

    write_rows(folder / f"ranks_{stage}.csv", [{"window": row, "rank": int(rank)} for row, rank in enumerate(ranks)])
    cutoffs = sorted({*REPORTED_CUTOFFS, *config["topk"]})
    return {"label": label, "stage": stage, "windows": len(ranks), "ranks_file": f"ranks_{stage}.csv",
            "metrics": metric_table(ranks, cutoffs)}


def _record(config, data, splits, outcome: Mapping[str, Any], clock: _Clock) -> dict[str, Any]:
    protocol = {name: config[name] for name in (
        "window", "MAX_ITEM_LIST_LENGTH", "duplicate_titles", "mask_history", "eval_args", "user_inter_num_interval",
        "item_inter_num_interval", "train_sample", "valid_sample", "test_sample", "sample_seed")}
    return {
        "model": config["model"], "dataset": config["dataset"], "seed": config["seed"],
        "user_settings": dict(config.external_config_dict), "config": dict(config.final_config_dict),
        "versions": versions(), "commit": commit(Path(__file__).parent), "machine": machine(),
        "processes": world_size(), "data": _about_data(data, splits),
        "protocol": protocol, "protocol_fingerprint": content_key(**protocol),
        "language_model": outcome["model"], "stages": outcome["stages"], "notes": outcome["notes"],
        "curves": outcome["curves"], "results": outcome["results"], "recbole_test_result": dict(outcome["test_result"]),
        "best_valid_score": outcome["best_valid_score"], "best_valid_result": dict(outcome["best_valid_result"] or {}),
        "seconds": clock.laps, "peak_memory": peak_memory(),
    }


def _about_data(data, splits) -> dict[str, Any]:
    train, valid, test = (loader.dataset for loader in splits)
    return {
        "counts": data.counts, "users": data.user_num - 1, "items": data.item_num - 1,
        "train_windows": len(train), "valid_windows": len(valid), "test_windows": len(test),
        "catalogue": data.catalog.fingerprint if data.catalog else None,
        "train": train.fingerprint(), "valid": valid.fingerprint(), "test": test.fingerprint(),
    }


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now
