"""Lets RecBole read back the checkpoints it wrote itself.

Symptom: after the whole training, `Trainer.evaluate` raises "UnpicklingError: Weights only load failed"; so
    do resuming, `load_data_and_model`, and models that start from a pretrained one.
Where: recbole 1.2.1 trainer/trainer.py:323,583, quick_start/quick_start.py:250; s3rec.py:120, neumf.py:84-85,
    nais.py:127, convncf.py:82, ract.py:75,84, kd_dagfm.py:56.
Upstream: https://github.com/RUCAIBox/RecBole/issues/2212 (open), pull request 2219 (open).
Guard: `torch.load` refuses a pickled object of an unknown class, i.e. torch 2.6 or later (unless the user set
    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD).
Can go when: RecBole passes `weights_only=False`, or stops pickling its Config into the checkpoint.

Nothing in a checkpoint is executed (`compat/plain_checkpoint.py`). Only the name `torch` of the listed modules is
replaced; `torch.load` stays as it is for everybody else. Our own trainer writes safetensors and does not depend on
this.
"""

from __future__ import annotations

import importlib
import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_soft.compat.module_view import ModuleView
from recbole_soft.compat.plain_checkpoint import load_checkpoint

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
    from recbole.data.dataset import Dataset
    from recbole.model.abstract_recommender import AbstractRecommender

_MODULES_THAT_LOAD = (
    "recbole.trainer.trainer",
    "recbole.model.sequential_recommender.s3rec",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.ract",
    "recbole.model.context_aware_recommender.kd_dagfm",
)


class _UnknownToTorch:
    """Stands for RecBole's Config in the guard's trial checkpoint."""


def is_needed() -> bool:
    """Whether `torch.load` refuses a checkpoint that holds a Config."""
    import torch

    checkpoint = io.BytesIO()
    torch.save({"config": _UnknownToTorch()}, checkpoint)
    checkpoint.seek(0)
    try:
        torch.load(checkpoint)
    except pickle.UnpicklingError:
        return True
    return False


def apply() -> None:
    """Let RecBole's own modules read the checkpoints that RecBole writes."""
    import torch

    for name in _MODULES_THAT_LOAD:
        importlib.import_module(name).torch = ModuleView(torch, load=load_checkpoint)

    import recbole.quick_start as package
    import recbole.quick_start.quick_start as module

    package.load_data_and_model = module.load_data_and_model = load_data_and_model


def load_data_and_model(
    model_file: str | Path,
) -> tuple[Config, AbstractRecommender, Dataset, AbstractDataLoader, AbstractDataLoader, AbstractDataLoader]:
    """Replaces RecBole's function of this name, which imports torch locally, out of a view's reach.

    Args:
        model_file: a checkpoint written by RecBole's trainer.

    Returns:
        The configuration, the trained model on its device, the dataset, and the loaders of the training,
        validation and test split.

    Raises:
        FileNotFoundError: there is no such file.
    """
    # Looked up at call time: plugins such as ours replace names in there.
    import recbole.quick_start.quick_start as recbole

    checkpoint = load_checkpoint(model_file)
    config = checkpoint["config"]
    recbole.init_seed(config["seed"], config["reproducibility"])
    recbole.init_logger(config)
    dataset = recbole.create_dataset(config)
    loaders = recbole.data_preparation(config, dataset)

    # As before training: what a model draws outside its state_dict must come out the same.
    recbole.init_seed(config["seed"], config["reproducibility"])
    model = recbole.get_model(config["model"])(config, loaders[0]._dataset).to(config["device"])
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))
    return (config, model, dataset, *loaders)
