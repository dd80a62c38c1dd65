"""A whole run: settings, data, model, training, test, record, table. The only module that composes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_soft import plugin
from recbole_soft.artifacts import UNFINISHED, content_key, disk_errors, make_folder, write_text
from recbole_soft.companions import companion_folder, refuse_other_windows
from recbole_soft.config.refusals import settings_that_fail
from recbole_soft.data.sources import data_root, find_dataset
from recbole_soft.distill import copy_first
from recbole_soft.errors import DataError
from recbole_soft.parallel.group import check_alike, from_first, start, world_size
from recbole_soft.registry import is_llm_name
from recbole_soft.reporting.comparable import PROTOCOL_SETTINGS
from recbole_soft.reporting.record import (
    RECORD_FILE,
    Clock,
    about_data,
    commit,
    machine,
    peak_memory,
    plain,
    versions,
    write_record,
    write_rows,
)
from recbole_soft.reporting.table import result_table
from recbole_soft.run_folders import alone_in, finished_record, kept_while_unfinished, run_folder
from recbole_soft.run_log import log_to, tensorboard_in
from recbole_soft.validation_only import SealedWindows, ValidationOnly

logger = logging.getLogger("recbole_soft")
REPORTED_CUTOFFS = (1, 5, 10, 20, 50)


def run_recbole_soft(
    model: str,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command_line: Mapping[str, str] | None = None,
    saved: bool = True,
    validation_only: ValidationOnly | None = None,
) -> dict[str, Any]:
    """Trains and tests a model under the project's protocol.

    Args:
        model: such as `BIGRec_SOFT`, or a RecBole model such as `SASRec`.
        dataset: name of a data set.
        config_file_list, config_dict, command_line: the user's settings, weakest first.
        saved: whether RecBole keeps the best checkpoint of a traditional model.
        validation_only: ends the run before the test, whose windows are then never read; for searches.

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
    shown = validation_only.terminal_level if validation_only else None
    with alone_in(folder), log_to(folder / "run.log", config["state"], shown), settings_that_fail(config):
        return _run_in(folder, config, saved, validation_only)


def _run_in(folder: Path, config, saved: bool, validation_only: ValidationOnly | None) -> dict[str, Any]:
    """A run in its folder, from where an interrupted one ended if that is wanted."""
    config["run_folder"] = str(folder)
    with kept_while_unfinished(config, folder) as goes_on, tensorboard_in(folder / "tensorboard"):
        return _run(config, folder, saved, validation_only, is_new=not goes_on)


def _run(config, folder: Path, saved: bool, validation_only: ValidationOnly | None, is_new: bool) -> dict[str, Any]:
    from recbole.data import data_preparation
    from recbole.utils import init_seed

    from recbole_soft.data.dataset import SoftDataset

    clock = Clock()
    init_seed(config["seed"], config["reproducibility"])
    from_first(lambda: find_dataset(config["dataset"], data_root(config)))
    data = SoftDataset(config)
    fit_cutoffs(config, data.item_num)
    splits = data_preparation(config, data)
    check_alike("the data set, as split and sampled,", [loader.dataset.fingerprint() for loader in splits])
    if validation_only:
        splits = (*splits[:2], SealedWindows(splits[2]))
    clock.lap("data")
    logger.info("%s: %s", config["dataset"], ", ".join(f"{name.replace('_', ' ')} {count:,}"
                                                       for name, count in data.counts.items()))
    if config["resume"] and is_new and validation_only is None and (finished := finished_record(
            folder, config, plain(about_data(config, data, splits)))):
        return _returned(finished, folder / RECORD_FILE)
    runner = _run_llm if is_llm_name(config["model"]) else _run_traditional
    outcome = runner(config, splits, folder, saved, clock, validation_only)
    # The times of a run that was interrupted are those of its last process.
    record = plain(_record(config, data, splits, outcome, clock) | {"was_interrupted": not is_new})
    path = write_record(folder, record)
    write_rows(folder / "curves.csv", outcome["curves"])
    write_text(folder / "table.txt", result_table(record) + "\n")
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


def fit_cutoffs(config, item_num: int) -> None:
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


def _run_llm(config, splits, folder: Path, saved: bool, clock: Clock,
             validation_only: ValidationOnly | None) -> dict[str, Any]:
    from recbole.utils import get_model

    from recbole_soft.evaluation.answers import describe_answers
    from recbole_soft.evaluation.ranks import RankRecorder
    from recbole_soft.trainer.llm_trainer import LLMTrainer

    train, valid, test = splits
    model = get_model(config["model"])(config, train.dataset)
    clock.lap("model")
    if config["retriever"]:
        model.retriever = _retriever(config, splits, model.store.root / "retrievers", validation_only)
        clock.lap("retriever")
    prior = _injection_prior(config, splits)  # before the training: what is wrong with it is known at once
    trainer = LLMTrainer(config, model)
    trainer.eval_collector = recorder = RankRecorder(trainer.eval_collector)
    best_score, best_result = trainer.fit(train, valid, saved=saved, show_progress=config["show_progress"],
                                          callback_fn=validation_only.callback(trainer) if validation_only else None)
    clock.lap("training")
    copy_first(trainer.notes.get("self_distilled_set"), folder, config["examples"])
    results, test_result = [], {}
    if validation_only and (injection := _injection(config, trainer, trainer.stages[-1].name, valid, prior)):
        best_result = trainer.evaluate(valid, load_best_model=False)
        best_score = best_result[config["valid_metric"].lower()]
        trainer.notes["injection"] = injection
    for stage in () if validation_only else trainer.stages:
        injection = _injection(config, trainer, stage.name, valid, prior)
        test_result = trainer.evaluate_stage(stage.name, test)
        results.append(_result(f"{model.name} {stage.label}", stage.name, recorder.last, splits, config)
                       | {"injection": injection}
                       | describe_answers(model, test, recorder.last, stage.name, folder, config["examples"]))
    clock.lap("test")
    return {
        "best_valid_score": best_score, "best_valid_result": best_result, "test_result": test_result,
        "results": results, "curves": trainer.curves, "stages": trainer.stage_reports,
        "notes": trainer.notes | model.notes_on((valid if validation_only else test).dataset.inter_feat),
        "model": {"base_fingerprint": model.base_fingerprint, "parameters": model.base_parameters,
                  "tokenizer": model.backbone.tokenizer.fingerprint,
                  "template": model.encoder.template.fingerprint, "path": model.backbone.model.name_or_path,
                  **model.about()},
    }


def _injection_prior(config, splits):
    """What is mixed into the distances; None when nothing is."""
    if config["injection"] == "none":
        return None
    from recbole_soft.evaluation.injection import injection_prior

    prior = injection_prior(config, splits[0].dataset)
    if config["injection"] == "cf":
        refuse_other_windows(Path(config["injection_model_file"]), "injection_model_file", splits)
    return prior


def _injection(config, trainer, stage_name: str, valid, prior) -> dict[str, Any] | None:
    """Sets the model's injection for a stage, gamma chosen on validation; None when there is none."""
    if prior is None:
        return None
    from recbole_soft.evaluation.injection import tune_injection

    model = trainer.model
    model.injection = None
    trainer.evaluate_stage(stage_name, valid)
    return tune_injection(model, valid, prior, config["valid_metric"], config["injection_gamma"])


def _retriever(config, splits, root: Path, validation_only: ValidationOnly | None):
    """The traditional model that proposes candidates."""
    from recbole_soft.models.rerank import open_retriever

    folder = from_first(lambda: companion_folder(
        config, "retriever", splits, root, lambda *arguments: _trained(config["dataset"], *arguments, validation_only)))
    return open_retriever(folder, splits[0].dataset)


def _trained(dataset: str, model: str, settings: Mapping[str, Any], only_where: bool,
             validation_only: ValidationOnly | None) -> Path:
    """Trains a model inside a run of another (see `companion_folder`); its messages go where that run's go."""
    from recbole_soft.config.soft_config import SoftConfig

    config = SoftConfig(model, dataset, config_dict=settings)
    folder = run_folder(config)
    if not only_where:
        with alone_in(make_folder(folder)):
            _run_in(folder, config, True, validation_only and validation_only.for_companion())
    return folder


def _run_traditional(
    config, splits, folder: Path, saved: bool, clock: Clock, validation_only: ValidationOnly | None
) -> dict[str, Any]:
    from recbole.utils import get_model, get_trainer, init_seed
    from safetensors.torch import save_file

    from recbole_soft.evaluation.ranks import RankRecorder
    from recbole_soft.models.recbole_training import ResumableTraining
    from recbole_soft.models.traditional import learned_state, losses_are_numbers
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
        if validation_only:
            validation_only.after_epoch(epoch, float(score))

    metric = config["valid_metric"].lower()
    with disk_errors(folder), losses_are_numbers(config):
        best_score, best_result = training.fit(train, valid, saved, config["show_progress"], note_epoch)
    clock.lap("training")
    result = {} if validation_only else trainer.evaluate(test, load_best_model=False)
    clock.lap("test")
    with disk_errors(folder):
        save_file(learned_state(model), folder / "model.safetensors")
    scores = training.valid_scores
    curves = [{"stage": "train", "epoch": epoch, "loss_total": loss, f"valid_{metric}": scores.get(epoch)}
              for epoch, loss in trainer.train_loss_dict.items()]
    return {
        "best_valid_score": best_score, "best_valid_result": best_result,
        "test_result": {} if validation_only else result, "curves": curves,
        "results": [] if validation_only else [_result(config["model"], "test", recorder.last, splits, config)],
        "stages": {}, "notes": getattr(model, "notes", {}),
        "model": {"parameters": sum(parameter.numel() for parameter in model.parameters())},
    }


def _result(label: str, stage: str, ranks: np.ndarray, splits, config) -> dict[str, Any]:
    """Metrics of a row of the table; the ranks go to a file for significance tests and breakdowns."""
    from recbole_soft.evaluation.ranks import metric_table
    from recbole_soft.evaluation.windows import rank_rows, window_columns

    train, _, test = (loader.dataset for loader in splits)
    write_rows(Path(config["run_folder"]) / f"ranks_{stage}.csv", rank_rows(ranks, window_columns(train, test)))
    return {"label": label, "stage": stage, "windows": len(ranks), "ranks_file": f"ranks_{stage}.csv",
            "metrics": metric_table(ranks, sorted({*REPORTED_CUTOFFS, *config["topk"]}))}


def _record(config, data, splits, outcome: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    protocol = {name: config[name] for name in PROTOCOL_SETTINGS}
    return {
        "model": config["model"], "dataset": config["dataset"], "seed": config["seed"],
        "user_settings": dict(config.external_config_dict), "config": dict(config.final_config_dict),
        "versions": versions(), "commit": commit(), "machine": machine(),
        "working_folder": str(Path.cwd()), "processes": world_size(), "data": about_data(config, data, splits),
        "protocol": protocol, "protocol_fingerprint": content_key(**protocol),
        "language_model": outcome["model"], "stages": outcome["stages"], "notes": outcome["notes"],
        "curves": outcome["curves"], "results": outcome["results"], "recbole_test_result": dict(outcome["test_result"]),
        "tested": bool(outcome["results"]), "best_valid_result": dict(outcome["best_valid_result"] or {}),
        "best_valid_score": outcome["best_valid_score"], "seconds": clock.laps, "peak_memory": peak_memory(),
    }
