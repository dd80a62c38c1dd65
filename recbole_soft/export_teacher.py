"""The `export-teacher` subcommand: what a finished LLM run knows, for DLLM2Rec.

Opens the run's data and weights, ranks the catalogue for training windows with the run's own model, masking and
prompts, and writes `recbole_soft/teacher.py`'s folder. Validation and test windows are never ranked.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_soft.artifacts import read_json
from recbole_soft.config.foreign import recorded_settings
from recbole_soft.config.words import count, is_yes, parse_options
from recbole_soft.errors import ModelError, SettingError, nearest
from recbole_soft.registry import is_llm_name, split_name

logger = logging.getLogger("recbole_soft")
OPTIONS = {"run": "", "out": "", "sample": "full", "stage": "", "topk": "50", "trust_remote_code": "false"}
EXAMPLE = "python run_recbole_soft.py export-teacher --run=saved/RUN --out=teacher"
BATCH = 256
HELP = f"""Writes what a finished LLM run knows, for --model=DLLM2Rec --teacher=FOLDER.

  --run=FOLDER     run of an LLM method, such as saved/BIGRec_SOFT-game-1a2b3c4d
  --out=FOLDER     where to write; what a former export left there is replaced
  --sample=N       rank N training windows only (default: all, which takes one generated answer each);
                   the number the run trained on, with the same sample_seed, gives the windows it trained on
  --stage=NAME     weights of this stage (default: the last)
  --topk=K         length of the lists (default: {OPTIONS["topk"]})
  --trust_remote_code=true  run code that comes with the language model; what the run's record says does not count

example: {EXAMPLE} --sample=4096
"""


def main(argv: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code.

    Raises:
        UserError: an option, the run or the output folder cannot be used.
    """
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    options = _parse(argv)
    out = export_teacher(Path(options["run"]), Path(options["out"]), count(options, "topk"),
                         None if options["sample"] == "full" else count(options, "sample"), options["stage"],
                         is_yes(options, "trust_remote_code"))
    sys.stdout.write(f"{out}\n")
    return 0


def export_teacher(run: Path, out: Path, topk: int = 50, sample: int | None = None, stage: str = "",
                   trust_remote_code: bool = False) -> Path:
    """Writes a run's item vectors and lists.

    Args:
        run: folder of a finished run of an LLM method.
        out: folder to write.
        topk: length of the lists.
        sample: number of training windows; None ranks all.
        stage: whose weights; empty for the last.
        trust_remote_code: run code that comes with the language model.

    Returns:
        `out`.

    Raises:
        UserError: the run cannot be used, or the folder cannot be written.
    """
    from recbole_soft import plugin
    from recbole_soft.artifacts import make_folder

    record = _record(run)
    stages = list(record["stages"])
    stage = stage or (stages[-1] if stages else "")
    if stage and stage not in stages:
        raise SettingError(f"the run has no stage '{stage}'", where=f"--stage={stage}", remedy=nearest(stage, stages))
    make_folder(out, "out")
    plugin.install()
    # Lists are by distance: beams that come first would have no distance of their own.
    by_distance = {"ranking": "grounding"} if record["config"].get("ranking") == "beams" else {}
    model, train = _open(record, run, stage, {"train_sample": sample or "full", "eval_batch_size": BATCH,
                                              "trust_remote_code": trust_remote_code, **by_distance})
    _write(model, train, out, topk, {"run": str(run), "model": record["model"], "stage": stage,
                                     "dataset": record["dataset"], "sample": sample or "full"})
    return out


def _record(run: Path) -> dict[str, Any]:
    try:
        record = read_json(run / "run.json")
        name, _ = record["model"], (dict(record["user_settings"]), record["dataset"])
        if any(Path(stage).name != stage for stage in record["stages"]):
            raise ValueError("a stage is no folder of the run")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("there is no readable record of a run", where=str(run),
                         remedy="give the folder that a finished run printed") from error
    if is_llm_name(name) and split_name(name)[0].name == "Rerank":
        raise ModelError("Rerank puts another model's items into order, it has no distances to teach", where=str(run),
                         remedy="give a run of another LLM method, for instance BIGRec_SOFT")
    if not is_llm_name(name):
        raise ModelError(f"{name} is no LLM method, so it has no text vectors to teach", where=str(run),
                         remedy="give a run of an LLM method, for instance BIGRec_SOFT")
    return record


def _open(record: dict[str, Any], run: Path, stage: str, settings: dict[str, Any]):
    """The run's model with the stage's weights, and the training windows to rank."""
    from recbole.data import data_preparation
    from recbole.utils import get_model, init_seed

    from recbole_soft.config.soft_config import SoftConfig
    from recbole_soft.data.dataset import SoftDataset
    from recbole_soft.evaluation.injection import recorded_injection
    from recbole_soft.run_log import quiet_libraries

    quiet_libraries()
    config = SoftConfig(record["model"], record["dataset"], config_dict={**recorded_settings(record), **settings})
    init_seed(config["seed"], config["reproducibility"])
    data = SoftDataset(config)
    train = data_preparation(config, data)[0].dataset
    if data.catalog.fingerprint != record["data"]["catalogue"]:
        raise ModelError("the data set is not the one the run was trained on any more", where=record["dataset"],
                         remedy="bring back the files of the run, or train again")
    model = get_model(config["model"])(config, train)
    if stage:
        _take_weights(model, config, record, run, stage)
        chosen = next((row.get("injection") for row in record["results"] if row["stage"] == stage), None)
        model.injection = recorded_injection(chosen, config, train)
    return model.eval(), train


def _take_weights(model, config, record: dict[str, Any], run: Path, stage: str) -> None:
    from recbole_soft.strategies.base import Stage

    if record["stages"][stage].get("folder"):
        model.weights.load(stage, run / stage)
        return
    stages = split_name(record["model"])[1].load()(config).stages()
    if any(type(each).begin is not Stage.begin for each in stages if each.name == stage):
        raise ModelError(f"{record['model']} answers with demonstrations, and lists are made without",
                         where=str(run), remedy="give the run of a method that trains, or of ZeroShot")
    model.weights.create(stage, config["seed"])


def _write(model, train, out: Path, topk: int, about: dict[str, Any]) -> None:
    import torch
    from tqdm import tqdm

    from recbole_soft.data.dataset import WINDOW_FIELD
    from recbole_soft.data.loader import MaskedEvalDataLoader
    from recbole_soft.teacher import Teacher, distance_spread, write_teacher

    depth = min(topk, model.n_items - 1)
    items, distances = [], []
    loader = MaskedEvalDataLoader(model.options, train, None)
    for interaction, masked, _, _ in tqdm(loader, desc="Lists", unit="batch", leave=False,
                                          disable=not model.options["show_progress"]):
        scores = model.full_sort_predict(interaction).float().cpu()
        if masked is not None:
            scores[masked] = -torch.inf
        best, found = (tensor[:, :depth] for tensor in scores.sort(dim=1, descending=True, stable=True))
        is_candidate = best.isfinite()
        items.append(found.masked_fill(~is_candidate, 0))
        distances.append((-best).masked_fill(~is_candidate, 0.0))
    table = model.title_vectors.table()[model.title_rows].float().cpu()
    listed, measured = torch.cat(items), torch.cat(distances)
    write_teacher(out, Teacher(
        torch.cat([torch.zeros_like(table[:1]), table]), train.inter_feat[WINDOW_FIELD].clone(), listed, measured,
        {**about, "data": train.sequences_fingerprint(), "distance_scale": distance_spread(listed, measured),
         "base_fingerprint": model.base_fingerprint}))
    logger.info("%d lists of %d items: %s", len(listed), depth, out)


def _parse(argv: Sequence[str]) -> dict[str, str]:
    options = parse_options(argv, OPTIONS, OPTIONS, "export-teacher", EXAMPLE)
    for key in ("run", "out"):
        if not options[key]:
            raise SettingError(f"--{key} is missing", "command line", EXAMPLE)
    return options
