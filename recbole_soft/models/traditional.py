"""Traditional models of earlier runs, as other models use them. Reads safetensors and JSON, never a pickle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole.utils import get_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from recbole_soft.artifacts import read_json
from recbole_soft.config.foreign import recorded_settings
from recbole_soft.config.soft_config import SoftConfig
from recbole_soft.errors import ModelError

OTHER = "other_parameter."
WEIGHTS = "model.safetensors"


def load_traditional(folder: Path, dataset, setting: str = "injection_model_file"):
    """A traditional model of an earlier run, from its weights and its record, in evaluation mode.

    Args:
        folder: run folder.
        dataset: the data of this run; catalogues must be the same, because item ids are.
        setting: which setting named the folder, for messages.

    Raises:
        ModelError: no such run, another catalogue, or weights that do not fit.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelError("there is no model.safetensors in this folder", where=f"{setting}={folder}",
                         remedy="give the run folder of a traditional model, for instance saved/SASRec-ml-100k-...")
    try:
        record = read_json(folder / "run.json")
        if dataset.catalog is not None and record["data"]["catalogue"] != dataset.catalog.fingerprint:
            raise ValueError("it was trained on another catalogue, so its item ids mean other items")
        config = SoftConfig(record["model"], record["dataset"], config_dict=recorded_settings(record))
        return with_learned(config, dataset, folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"the traditional model cannot be used: {next(iter(str(error).splitlines()), error)}",
                         where=f"{setting}={folder}",
                         remedy="train it anew on this data set with the same settings of the data") from error


def with_learned(config, dataset, folder: Path):
    """A traditional model with the weights of a run folder, in evaluation mode.

    Raises:
        OSError, SafetensorError: the file of weights cannot be read.
        ValueError, RuntimeError: see `load_learned`; or the model reads a teacher that has changed since.
    """
    model = get_model(config["model"])(config, dataset).to(config["device"])
    learned_from = read_json(folder / "run.json").get("notes", {}).get("teacher", {}).get("tensors")
    if learned_from not in (None, getattr(model, "notes", {}).get("teacher", {}).get("tensors")):
        raise ValueError(f"the teacher in {config['teacher']} is not the one that it learned from")
    load_learned(model, load_file(folder / WEIGHTS))
    return model.eval()


def learned_state(model: nn.Module) -> dict[str, Tensor]:
    """Everything that a RecBole model learned: its weights, and tensors it keeps beside them (the counts of Pop)."""
    beside = {f"{OTHER}{name}": value for name, value in model.other_parameter().items() if isinstance(value, Tensor)}
    return {name: value.detach().cpu().contiguous().clone() for name, value in (model.state_dict() | beside).items()}


@contextmanager
def losses_are_numbers(config) -> Iterator[None]:
    """RecBole ends a training whose loss is no number with a plain ValueError; within the block it is a ModelError."""
    try:
        yield
    except ValueError as error:
        if "loss is nan" not in str(error):
            raise
        raise ModelError(f"the training loss of {config['model']} is not a number",
                         where=f"learning_rate={config['learning_rate']}",
                         remedy="give a lower --learning_rate") from error


def load_learned(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts back what `learned_state` gave.

    Raises:
        ValueError: the model keeps something else beside its weights, such as the matrix of EASE, which it would
            have worked out anew from the windows it was opened with.
        RuntimeError: the weights are those of another model.
    """
    for name, value in model.other_parameter().items():
        if f"{OTHER}{name}" in state:
            setattr(model, name, state[f"{OTHER}{name}"].to(model.device))
        elif value is not None and not isinstance(value, nn.Module):
            raise ValueError(f"{type(model).__name__} keeps `{name}` beside its weights, which is not stored")
    model.load_state_dict({name: value for name, value in state.items() if not name.startswith(OTHER)})
