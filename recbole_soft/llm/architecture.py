"""What a causal language model's configuration tells about its attention: what decides whether several sequences may
share one row, be it branches of a search or responses behind one prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

# Models whose local attention counts rows' columns, not positions: branches of one prompt lie further apart there.
COLUMN_MASKED = ("gpt_neo",)
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
# Settings that hold a window, and the kind of layer that has it where a configuration tells its layers' kinds.
_WINDOW_SETTINGS = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention",
                    "window_size": None, "local_attention": None}


def causal_language_model(model: nn.Module) -> nn.Module:
    """The causal language model inside an adapter wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def shortest_window(config: Any) -> int | None:
    """The shortest attention window of any layer in tokens, None if all layers see everything."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None and not getattr(config, "use_sliding_window", True):
        return None
    windows = [getattr(config, name, None) for name, kind in _WINDOW_SETTINGS.items()
               if None in (kinds, kind) or kind in kinds]
    return min((window for window in windows if isinstance(window, int) and window > 0), default=None)


def rope_reason(config: Any, longest: int) -> str | None:
    """Rotary embeddings that change with the length seen give other keys in each part of a packed run."""
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in settings.values() if isinstance(value, Mapping)]
    for rope in nested or [settings]:
        kind = rope.get("rope_type") or rope.get("type")
        trained = rope.get("original_max_position_embeddings") or getattr(
            config, "max_position_embeddings", 0
        )
        if kind in _LENGTH_DEPENDENT_ROPE and longest > trained:
            return f"its '{kind}' rotary embedding changes beyond {trained} tokens (longest: {longest})"
    return None
