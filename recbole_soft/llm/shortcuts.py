"""Two shortcuts through the forward pass of a ``transformers`` model; the results stay the same.

``grouped_attention``: models with grouped-query attention share one key/value head among several query heads.
With a mask, ``transformers`` copies the keys and values for each of them, in every layer and step. Here the query
heads of a group become further queries of their key/value head instead: nothing is copied but the mask.

``last_position_only``: a prompt is run for its keys and values and for the logits of its last position. In the
last layer nothing reads the feed-forward network of the other positions, so it need not run.

Knows nothing of trees or beams; what is not the plain case goes the ordinary way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "recbole_soft_grouped"
_PLAIN_OPTIONS = ("position_bias", "softcap", "cache", "is_causal")
"""Options that make an attention more than softmax(QK + mask)V when they are given."""


def grouped_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Drop-in for ``transformers``' ``sdpa_attention_forward``.

    Args:
        module: the attention layer.
        query: ``[B, query heads, Q, d]``.
        key: ``[B, key heads, S, d]``; the query heads of a key head are neighbours.
        value: ``[B, key heads, S, d']``.
        attention_mask: ``[B, 1, Q, S]``, additive.
        dropout: 0 outside training.
        scaling: factor of the scores, 1 / sqrt(d) if None.
        options: as ``transformers`` passes them.

    Returns:
        ``[B, Q, query heads, d']``, and None in place of the weights.
    """
    batch, heads, queries, width = query.shape
    groups = key.shape[1]
    per_group = heads // groups
    is_plain = all(options.get(name) is None for name in _PLAIN_OPTIONS)
    # Copies of the mask grow with the queries: for a long prompt those of keys and values are the smaller evil.
    is_worth_it = per_group > 1 and queries <= 2 * groups * width
    if not is_worth_it or not is_plain or attention_mask is None or attention_mask.shape[1] != 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    attended = nn.functional.scaled_dot_product_attention(
        query.reshape(batch, groups, per_group * queries, width),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, per_group, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    return attended.reshape(batch, heads, queries, -1).transpose(1, 2).contiguous(), None


@contextmanager
def grouped_attention(config: Any) -> Iterator[None]:
    """Lets a model that is set to ``sdpa`` use ``grouped_attention_forward`` for a while."""
    own = config._attn_implementation
    if own == "sdpa":
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = own


@contextmanager
def last_position_only(model: nn.Module, positions: int) -> Iterator[None]:
    """Lets the last layer's feed-forward network see the last of ``positions`` only.

    At all others it yields zeros, so what the model makes of those positions means nothing. Models whose last
    layer has no module ``mlp`` are left as they are.
    """
    decoder = getattr(model, model.base_model_prefix, model)
    layers = getattr(decoder, "layers", None) or getattr(decoder, "h", None)
    feed_forward = getattr(layers[-1], "mlp", None) if layers else None
    if feed_forward is None:
        yield
        return

    def narrow(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][:, -1:], *inputs[1:])

    def widen(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return nn.functional.pad(output, (0, 0, positions - 1, 0))

    handles = (feed_forward.register_forward_pre_hook(narrow), feed_forward.register_forward_hook(widen))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


ALL_ATTENTION_FUNCTIONS.register(_NAME, grouped_attention_forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, sdpa_mask)
