"""Text vectors: the last hidden layer of the language model, at the last token or averaged.

BIGRec, section "Grounding": the vector of a text is the hidden state of its last token. Averaging over the
text's tokens is offered for small models. The caller decides which weights are switched on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, islice

import torch
from torch import Tensor, nn

from recbole_soft.llm.backbone import Backbone

BATCH_TOKENS = 16384
# What a larger batch computes does not stay in a processor's caches: a third of the speed at 16384.
CPU_BATCH_TOKENS = 1024
ROWS_ALIKE, LENGTHS_ALIKE = 16, 8


@torch.no_grad()
def embed_texts(
    backbone: Backbone, model: nn.Module, texts: Sequence[str], pooling: str = "last",
    batch_tokens: int | None = None, progress: Callable[[int], None] | None = None, alike: bool = False,
) -> Tensor:
    """Vectors of texts.

    Every distinct text is embedded once, in batches of similar length, so that equal texts get equal vectors.

    Args:
        model: the model of `backbone`, possibly wrapped by an adapter.
        texts: [n] texts, without quotes; an empty text counts as a single end-of-text token.
        pooling: `last` or `mean`.
        batch_tokens: padded tokens per forward; by default what suits the device.
        alike: a text's vector is the same to the last bit whatever else is embedded with it. What decides last digits
            is the shape of a batch, so every batch then has `ROWS_ALIKE` rows, some repeated, and as many columns
            as the next multiple of `LENGTHS_ALIKE`: a shape that the text's own length decides.

    Returns:
        [n, d] float32 on the model's device.
    """
    tokenizer = backbone.tokenizer
    batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if backbone.device.type == "cpu" else BATCH_TOKENS)
    unique = list(dict.fromkeys(texts))
    rows = [tokenizer.bos_ids + (body or [tokenizer.eos_id]) for body in tokenizer.encode(unique)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = _alike(order, rows) if alike else _batches(order, rows, batch_tokens)
    vectors = torch.empty(0, backbone.hidden_size, dtype=torch.float32, device=backbone.device)
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            filled = [rows[i] for i in batch] + [rows[batch[-1]]] * (alike * (ROWS_ALIKE - len(batch)))
            columns = _columns(rows[batch[-1]]) if alike else len(rows[batch[-1]])
            found = _pool(backbone, model, filled, columns, pooling)[: len(batch)]
            if not len(vectors):  # what comes out may be narrower than the hidden layers (OPT-350m)
                vectors = found.new_empty(len(rows), found.shape[1], dtype=torch.float32)
            vectors[batch] = found
            if progress is not None:
                progress(len(batch))
    finally:
        model.train(was_training)
    if len(unique) == len(texts):
        return vectors
    position = {text: row for row, text in enumerate(unique)}
    return vectors[torch.tensor([position[text] for text in texts], device=backbone.device)]


def _batches(order: list[int], rows: list[list[int]], batch_tokens: int):
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * len(rows[index]) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _alike(order: list[int], rows: list[list[int]]):
    for _, of_shape in groupby(order, key=lambda i: _columns(rows[i])):
        while batch := list(islice(of_shape, ROWS_ALIKE)):
            yield batch


def _columns(row: list[int]) -> int:
    return -(-len(row) // LENGTHS_ALIKE) * LENGTHS_ALIKE


def _pool(backbone: Backbone, model: nn.Module, rows: list[list[int]], columns: int, pooling: str) -> Tensor:
    """[b, d] vectors of token rows; padded on the right, so positions are those of the text alone."""
    pad = backbone.tokenizer.pad_id
    ids = torch.tensor([row + [pad] * (columns - len(row)) for row in rows], device=backbone.device)
    lengths = torch.tensor([len(row) for row in rows], device=backbone.device)
    mask = torch.arange(columns, device=backbone.device)[None, :] < lengths[:, None]
    hidden = _decoder(model)(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
    if pooling == "last":
        return hidden[torch.arange(len(rows), device=hidden.device), lengths - 1].float()
    inside = mask[:, :, None].float()
    if backbone.tokenizer.bos_ids:
        inside[:, 0] = 0  # the beginning-of-text vector is the same for every text
    return (hidden.float() * inside).sum(1) / inside.sum(1)


def _decoder(model: nn.Module) -> nn.Module:
    """The stack below the language-model head; adapters live inside its layers and keep working."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return causal.base_model
