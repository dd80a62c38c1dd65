"""Item embeddings of a traditional model of the same protocol, for language models that read items as vectors.

Either from the run folder of an earlier run, or from a SASRec that is trained here by RecBole on the whole
training split (SOFT paper: embedding size 64, `properties/traditional.yaml`) and kept by content, so that all
runs on the same data share one. Only its item table is used, no sequence encoder; it stays frozen.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data import data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from recbole.utils.argument_list import dataset_arguments, evaluation_arguments
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recbole_soft.artifacts import PARTS, ArtifactStore, content_key, read_json
from recbole_soft.config.schema import PROTOCOL
from recbole_soft.config.soft_config import SoftConfig
from recbole_soft.data.dataset import SoftDataset
from recbole_soft.data.same_split import refuse_other_split
from recbole_soft.errors import DataError, ModelError, SettingError
from recbole_soft.models.recbole_training import ResumableTraining
from recbole_soft.models.traditional import load_traditional
from recbole_soft.resuming.checkpoints import Checkpoints

logger = logging.getLogger("recbole_soft")
RECOMMENDER = "SASRec"
FILE = "item_vectors.safetensors"
# Settings of the LLM run that decide the recommender's data, device and seed; its training has its own.
SHARED_SETTINGS = (
    *dataset_arguments, *(name for name in evaluation_arguments if name != "eval_batch_size"),
    *(setting.name for setting in PROTOCOL if setting.name != "train_sample"),
    "gpu_id", "use_gpu", "seed", "reproducibility", "data_path", "encoding", "checkpoint_dir", "state",
)
# Values of a RecBole Config that decide no result; paths change from machine to machine.
NOT_DECIDING = ("data_path", "checkpoint_dir", "artifacts_dir", "state", "show_progress", "gpu_id", "run_name",
                "resume", "checkpoint_seconds", "world_size",
                "run_folder", "log_wandb", "config_file", "save_dataset", "save_dataloaders", "dataset_save_path",
                "dataloaders_save_path", "eval_batch_size")


@dataclass(frozen=True)
class ItemVectors:
    """Frozen item embeddings.

    Attributes:
        table: [n_items, d] float32, row 0 is padding.
        source: the folder they come from, for the record.
        reused: whether they were there before this run.
    """

    table: Tensor
    source: str
    reused: bool

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.table.contiguous().numpy().tobytes()).hexdigest()[:16]


def obtain_item_vectors(config, dataset, store: ArtifactStore) -> ItemVectors:
    """The item vectors of a run: from `rec_model_file`, from the store, or trained now.

    Raises:
        UserError: the given run does not fit, or `rec_model_settings` is wrong.
    """
    if config["rec_model_file"] and config["rec_model_settings"]:
        raise SettingError("rec_model_settings has no effect on a model that is already trained",
                           where="rec_model_settings, rec_model_file", remedy="remove one of the two")
    if config["rec_model_file"]:
        return _of_earlier_run(Path(config["rec_model_file"]), config, dataset)
    recommender = _recommender_config(config)
    key = content_key(
        recommender={name: value for name, value in recommender.final_config_dict.items() if name not in NOT_DECIDING},
        interactions=dataset.interactions_fingerprint())

    def make(folder: Path) -> dict[str, Any]:
        logger.info("training %s for its item embeddings", RECOMMENDER)
        saves = Checkpoints(folder / PARTS, config["checkpoint_seconds"], key)
        table, about = _train(recommender, dataset, saves)
        save_file({"vectors": table}, folder / FILE)
        return about

    folder, reused = store.obtain("item-vectors", key, make)
    logger.info("item embeddings of %s %s: %s", RECOMMENDER, "reused" if reused else "trained", folder)
    return ItemVectors(load_file(folder / FILE)["vectors"], str(folder), reused)


def _of_earlier_run(folder: Path, config, dataset) -> ItemVectors:
    model = load_traditional(folder, dataset, "rec_model_file")
    refuse_other_split(read_json(folder / "run.json"), config, dataset, where=f"rec_model_file={folder}",
                       remedy="leave out rec_model_file")
    embedding = getattr(model, "item_embedding", None)
    if getattr(getattr(embedding, "weight", None), "ndim", 0) != 2 or len(embedding.weight) < dataset.item_num:
        raise ModelError(f"{type(model).__name__} has no table of item embeddings", where=f"rec_model_file={folder}",
                         remedy="give the run folder of a model that has one, such as SASRec or GRU4Rec")
    return ItemVectors(_item_table(model, dataset.item_num), str(folder), True)


def _recommender_config(config) -> SoftConfig:
    """Settings of the recommender: the run's data, and RecBole's or the user's training."""
    user = config.external_config_dict
    shared = {name: user[name] for name in SHARED_SETTINGS if name in user}
    # Cut-offs beyond a small catalogue are already left out of the run's own.
    shared |= {"topk": config["topk"], "metrics": config["metrics"], "valid_metric": config["valid_metric"]}
    return SoftConfig(RECOMMENDER, config["dataset"], config_dict={**(config["rec_model_settings"] or {}), **shared})


def _train(config: SoftConfig, dataset, saves: Checkpoints) -> tuple[Tensor, dict[str, Any]]:
    """[n_items, d] item embeddings of the recommender's best epoch on validation, and how good it was."""
    with _own_random_state(config):
        data = SoftDataset(config)
        train, valid, _ = data_preparation(config, data)
        if not np.array_equal(data.field2id_token[data.iid_field], dataset.field2id_token[dataset.iid_field]):
            raise DataError(f"{RECOMMENDER} numbers the items otherwise than this run does", where=config["dataset"],
                            remedy="do not change the data set's files during a run")
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(RECOMMENDER)(config, train.dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], RECOMMENDER)(config, model)

        def after_epoch(epoch: int, score: float) -> None:
            logger.info("%s epoch %d: %s %.4f", RECOMMENDER, epoch + 1, config["valid_metric"], score)

        _, best_result = ResumableTraining(trainer, saves).fit(train, valid, after_epoch=after_epoch)
    result = {name: float(value) for name, value in (best_result or {}).items()}
    return _item_table(model, data.item_num), {
        "model": RECOMMENDER, "epochs": len(trainer.train_loss_dict), "valid_result": result}


def _item_table(model: nn.Module, count: int) -> Tensor:
    """[count, d] a copy of a model's item embeddings, without rows for masks and the like."""
    return model.item_embedding.weight[:count].detach().float().cpu().clone()


@contextmanager
def _own_random_state(config) -> Iterator[None]:
    """Puts all random states back: a run that trains the recommender goes on like one that finds it."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            init_seed(config["seed"], config["reproducibility"])
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
