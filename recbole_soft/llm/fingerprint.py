"""A hash by which a language model is known again: what was made with it is reused with the very same model alone."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn

# Of a configuration: names, versions, special tokens, and what is recorded elsewhere.
_NO_ARCHITECTURE = frozenset({
    "_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "pad_token_id",
    "bos_token_id", "eos_token_id", "quantization_config", "auto_map"})


def weights_fingerprint(model: nn.Module, samples: int = 1024) -> str:
    """Hash of a model's architecture and of evenly spaced values of every tensor."""
    digest = hashlib.sha256(type(model).__name__.encode())
    digest.update(json.dumps(_architecture(model), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // samples)
        probe = flat[::step].float().cpu() if flat.is_floating_point() else flat[::step].long().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode() + probe.numpy().tobytes())
    return digest.hexdigest()[:16]


def _architecture(model: nn.Module) -> dict[str, Any]:
    """What of a configuration decides outputs and is in no weight, such as the base of rotary positions."""
    config = getattr(model, "config", None)
    return {} if config is None else {
        key: value for key, value in config.to_diff_dict().items() if key not in _NO_ARCHITECTURE}
