"""Run folders of traditional models that an LLM run needs: the one the user names, or one trained on the way.

A companion sees the same data, split and candidates. One whose validation or test windows are others is refused: it
may have been trained on the windows that this run is tested on. Does not know how models are trained or opened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from recbole.utils.argument_list import dataset_arguments

from recbole_soft.artifacts import make_folder, read_json
from recbole_soft.errors import ModelError
from recbole_soft.resuming.locks import one_at_a_time
from recbole_soft.run_folders import tidy

logger = logging.getLogger("recbole_soft")

# What a companion takes over from the run: data, protocol and machine, not the training of the language model.
SHARED_SETTINGS = (
    *dataset_arguments, "data_path", "encoding", "title_field", "category_field", "eval_args",
    "protocol", "window", "duplicate_titles", "mask_history", "valid_sample", "test_sample", "sample_seed", "seed",
    "valid_metric", "metrics", "topk", "use_gpu", "gpu_id", "reproducibility", "show_progress", "state",
)


def companion_folder(config, setting: str, splits, root: Path, train: Callable[[str, dict, bool], Path]) -> Path:
    """The run folder of a traditional model, for `load_traditional`.

    Args:
        config: the LLM run's settings; `config[setting]` is a run folder or the name of a model to train.
        splits: the run's training, validation and test loaders.
        root: where models trained on the way are kept for later runs.
        train: `train(name, settings, only_where)` trains a model and returns its run folder, or, with `only_where`,
            only says which folder that is.

    Raises:
        ModelError: the folder is of a run on other windows, or of none.
    """
    folder = Path(config[setting])
    if not folder.is_dir():
        name, user = config[setting], config.external_config_dict
        shared = {key: user[key] for key in SHARED_SETTINGS if key in user}
        # The run's own answer: nobody is asked twice.
        shared |= {"checkpoint_dir": str(root), "resume": bool(config["resume"]),
                   "checkpoint_seconds": config["checkpoint_seconds"]}
        folder = train(name, shared, True)
        with one_at_a_time(make_folder(root) / f".{folder.name}.lock", lambda holder: logger.info(
                "%s: another run trains %s (%s); waiting for it", setting, name, holder)):
            if _mistake(folder, splits) is not None:
                logger.info("%s: %s is trained first, in %s", setting, name, make_folder(folder))
                train(name, shared, False)
            tidy(folder)
    refuse_other_windows(folder, setting, splits)
    return folder


def refuse_other_windows(folder: Path, setting: str, splits) -> None:
    """Whether the traditional model of a run folder may help a run on these splits.

    Raises:
        ModelError: the folder is of a run on other windows, or of none.
    """
    if mistake := _mistake(folder, splits):
        raise ModelError(f"the traditional model cannot be used: {mistake}", where=f"{setting}={folder}",
                         remedy="train it on the same data with the same settings of the protocol")


def _mistake(folder: Path, splits) -> str | None:
    """Why a run cannot be a companion; None if it can."""
    try:
        theirs = read_json(folder / "run.json")["data"]
        same = all(theirs[name] == loader.dataset.fingerprint()
                   for name, loader in zip(("valid", "test"), splits[1:], strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return "there is no record of a finished run in this folder"
    return None if same else "its validation and test windows are others, so it may have been trained on ours"
