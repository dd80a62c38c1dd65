"""LoRA layers as single matrices while a model only answers.

PEFT runs three matrix products where one with the sum of the weights would do, and a decoding step, with few rows
of many layers, is mostly such small change. Weights are summed into a second matrix; the base weight is put back
untouched, not computed back, so that it stays what it was to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from recbole_soft.parallel.slices import make_whole


@contextmanager
def merged_adapters(model: nn.Module) -> Iterator[None]:
    """Replaces the active LoRA layers of a model by plain ones within the block.

    Left as they are: layers whose weights are not float32 (the sum would be rounded to their precision: other
    numbers, and not a base that is quantised), variants such as DoRA, and adapters that are switched off.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for parent in list(model.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, LoraLinear) and _is_mergeable(layer):
                    replaced.append((parent, name, layer))
                    setattr(parent, name, _merged(layer))
        yield
    finally:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)


def _is_mergeable(layer: LoraLinear) -> bool:
    if layer.disable_adapters or layer.merged:
        return False
    base, names = layer.get_base_layer(), _active(layer)
    weights = [base.weight, *(layer.lora_A[name].weight for name in names)]
    return (
        # A hook of accelerate moves weights about and is bound to the layer that it was put on.
        not hasattr(base, "_hf_hook")
        and all(weight.dtype == torch.float32 for weight in weights)
        and not any(name in layer.lora_variant or layer.lora_bias[name] for name in names)
    )


def _active(layer: LoraLinear) -> list[str]:
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _merged(layer: LoraLinear) -> nn.Module:
    """The base layer with the sum of its weight and those of the active adapters."""
    base = layer.get_base_layer()
    merged = copy.copy(base)
    # A shallow copy shares the dictionary: a new weight would reach the base layer.
    merged._parameters = dict(base._parameters)
    make_whole(base.weight)
    with torch.no_grad():
        weight = base.weight.clone()
        for name in _active(layer):
            weight += layer.get_delta_weight(name)
    merged.weight = nn.Parameter(weight, requires_grad=False)
    return merged
