"""Whether weights on disk are what the settings and the model call for; each mistake is a ModelError.

PEFT and torch take more than they should: an adapter of another scale, one that covers half of the layers, a
misspelt layer among right ones. Knows nothing of how weights are switched or trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from recbole_soft.errors import ModelError, nearest


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Raises:
        ModelError: the file is not there or cut short.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights cannot be read: {error}", where=str(path),
                         remedy="the file is missing or cut short: train again, or copy it anew") from error


def check_lora_config(path: Path, rank: int, alpha: float) -> None:
    """Rank and scale of an adapter must be those of the settings: the weights do not tell the scale.

    Args:
        path: its adapter_config.json.
        rank, alpha: `lora_r` and `lora_alpha` of the settings.

    Raises:
        ModelError: they differ, the adapter is no plain LoRA, or the file cannot be read.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError) as error:
        raise ModelError(f"the adapter's configuration cannot be read: {error}", where=str(path),
                         remedy="copy the adapter's folder anew") from error
    for theirs, ours, setting in ((config.get("r"), rank, "lora_r"), (config.get("lora_alpha"), alpha, "lora_alpha")):
        if theirs != ours:
            raise ModelError(f"the adapter has {setting} = {theirs}, the settings say {ours}",
                             where=str(path.parent), remedy=f"--{setting}={theirs}")
    for key in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern"):
        if config.get(key):
            raise ModelError(f"the adapter is no plain LoRA ({key} is set)", where=str(path.parent),
                             remedy="give an adapter that this program wrote, or leave out sft_adapter to train one")


def check_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], folder: Path, remedy: str) -> None:
    """Weights of a file must be exactly the model's: a layer that is left out would silently stay untrained.

    Args:
        state: weights as read from `folder`.
        wanted: the model's own, of the same names and shapes.
        folder, remedy: for the message.

    Raises:
        ModelError: a weight too many, too few, or of another shape.
    """
    if surplus := sorted(state.keys() - wanted.keys()):
        raise ModelError(f"the file has weights this model lacks, for instance {surplus[0]}", str(folder), remedy)
    if lacking := sorted(wanted.keys() - state.keys()):
        raise ModelError(f"the file lacks weights of this model, for instance {lacking[0]}", str(folder), remedy)
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise ModelError(f"the weights are of another size than the model: {key} has {tuple(state[key].shape)}, "
                             f"the model {tuple(value.shape)}", str(folder), remedy)


def check_targets(model: nn.Module, targets: Iterable[str]) -> None:
    """Each target of LoRA must be the name of layers with a weight matrix; PEFT accepts one right name of many.

    Raises:
        ModelError: a name that no such layer has; the remedy names the nearest.
    """
    layers = [name for name, module in model.named_modules()
              if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            leaves = {name.rsplit(".", 1)[-1] for name in layers}
            raise ModelError(f"the model has no layer '{target}' that LoRA can be put on",
                             where="lora_target_modules", remedy=nearest(target, leaves))
