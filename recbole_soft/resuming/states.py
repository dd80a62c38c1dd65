"""Random streams and optimisers as JSON and tensors, and back, exactly."""

from __future__ import annotations

import random
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

Tensors = dict[str, Tensor]
_CUDA = "cuda."


def random_state() -> tuple[dict[str, Any], Tensors]:
    """The states of Python's, numpy's and torch's global generators, those of all GPUs included."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state = {"python": random.getstate(), "numpy": [kind, keys.tolist(), position, has_gauss, cached]}
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"{_CUDA}{number}": value for number, value in enumerate(torch.cuda.get_rng_state_all())}
    return state, tensors


def set_random_state(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `random_state` gave."""
    random.setstate(python_random_state(state["python"]))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    for number in range(torch.cuda.device_count()):
        if f"{_CUDA}{number}" in tensors:
            torch.cuda.set_rng_state(tensors[f"{_CUDA}{number}"], number)


def python_random_state(saved: list[Any]) -> tuple[Any, ...]:
    """The state of a `random.Random` from its form in JSON."""
    version, numbers, cached = saved
    return version, tuple(numbers), cached


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Any], Tensors]:
    """Moments and counts of an optimiser, and the learning rates of its groups."""
    content, values, tensors = optimizer.state_dict(), {}, {}
    for number, of_parameter in content["state"].items():
        for name, value in of_parameter.items():
            target = tensors if isinstance(value, Tensor) else values
            target[f"{number}.{name}"] = value.detach().cpu().clone() if isinstance(value, Tensor) else value
    rates = [{name: group[name] for name in ("lr", "initial_lr") if name in group} for group in content["param_groups"]]
    return {"values": values, "rates": rates}, tensors


def set_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_state` gave, into an optimiser that was built in the same way."""
    of_parameters: dict[int, dict[str, Any]] = {}
    for key, value in {**state["values"], **tensors}.items():
        number, _, name = key.partition(".")
        of_parameters.setdefault(int(number), {})[name] = value
    groups = [{**group, **rates} for group, rates in zip(
        optimizer.state_dict()["param_groups"], state["rates"], strict=True)]
    optimizer.load_state_dict({"state": of_parameters, "param_groups": groups})


def tensor_hash(tensor: Tensor) -> str:
    """sha256 of a tensor's type, shape and bytes."""
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + plain.tobytes()).hexdigest()


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Tensors under names that begin with `prefix` and a dot."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Those tensors whose names begin with `prefix` and a dot, without it."""
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()
            if name.startswith(f"{prefix}.")}
