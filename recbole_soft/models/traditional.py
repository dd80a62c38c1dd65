"""Traditional models of earlier runs, as other models use them. Reads safetensors and JSON, never a pickle."""

from __future__ import annotations

from pathlib import Path

from recbole.utils import get_model
from safetensors import SafetensorError
from safetensors.torch import load_file

from recbole_soft.artifacts import read_json
from recbole_soft.config.soft_config import SoftConfig
from recbole_soft.errors import ModelError


def load_traditional(folder: Path, dataset, setting: str = "injection_model_file"):
    """A traditional model of an earlier run, from its weights and its record, in evaluation mode.

    Args:
        folder: run folder.
        dataset: the data of this run; catalogues must be the same, because item ids are.
        setting: which setting named the folder, for messages.

    Raises:
        ModelError: no such run, another catalogue, or weights that do not fit.
    """
    if not (folder / "model.safetensors").is_file():
        raise ModelError("there is no model.safetensors in this folder", where=f"{setting}={folder}",
                         remedy="give the run folder of a traditional model, for instance saved/SASRec-ml-100k-...")
    try:
        record = read_json(folder / "run.json")
        if dataset.catalog is not None and record["data"]["catalogue"] != dataset.catalog.fingerprint:
            raise ValueError("it was trained on another catalogue, so its item ids mean other items")
        config = SoftConfig(record["model"], record["dataset"], config_dict=record["user_settings"])
        model = get_model(record["model"])(config, dataset).to(config["device"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"the traditional model cannot be used: {next(iter(str(error).splitlines()), error)}",
                         where=f"{setting}={folder}",
                         remedy="train it anew on this data set with the same settings of the data") from error
    return model.eval()
