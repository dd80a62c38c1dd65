"""Tokens whose input embedding is a projected vector from elsewhere: a language model that reads vectors.

LLaRA's projector (SOFT paper, LLaRA backbone): Linear(d, d_llm), GELU, Linear(d_llm, d_llm), in float32. A token
id from `first_vector_token` on stands for a row of a table of frozen vectors. All such tokens of a batch are
projected together and put into the input embeddings by one scatter. Knows nothing of what the vectors mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recbole_soft.llm.tokenizer import LLMTokenizer

PLACEHOLDER = "<|item_vector|>"


class VectorProjector(nn.Module):
    """From frozen vectors to the input embeddings of a language model.

    Args:
        vectors: [n, d] the vectors; kept as they are and not part of the state.
        width: size of the language model's input embeddings.
    """

    def __init__(self, vectors: Tensor, width: int):
        super().__init__()
        self.register_buffer("vectors", vectors.detach().float().clone(), persistent=False)
        self.inner = nn.Linear(vectors.shape[1], width)
        self.outer = nn.Linear(width, width)

    def forward(self, rows: Tensor) -> Tensor:
        """[m, width] projections of the vectors `rows` [m]."""
        return self.outer(nn.functional.gelu(self.inner(self.vectors[rows])))

    def draw(self, seed: int) -> None:
        """Fresh weights; the process's random state stays as it was."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner.reset_parameters()
            self.outer.reset_parameters()


def register_placeholder(tokenizer: LLMTokenizer) -> int:
    """Makes the placeholder a special token of the tokenizer, which no text can spell; returns its id.

    The model gets no row for it: its input always comes from the projector, and it is never an answer.
    """
    from transformers import AddedToken

    token = AddedToken(PLACEHOLDER, special=True, normalized=False)
    # The second argument keeps what the tokenizer has already; its name differs between versions.
    tokenizer.hf.add_special_tokens({"additional_special_tokens": [token]}, False)
    return tokenizer.hf.convert_tokens_to_ids(PLACEHOLDER)


def embed_prompts(
    table: nn.Module, projector: VectorProjector, prompts: Sequence[Sequence[int]], first_vector_token: int
) -> tuple[list[list[int]], list[Tensor]]:
    """Token ids that a language model has, and the input embeddings that count in their place.

    Args:
        table: the model's input embeddings, as a module.
        projector: gives the embeddings of the vector tokens.
        prompts: token lists; an id from `first_vector_token` on means row `id - first_vector_token`.
        first_vector_token: at least the number of rows of `table`.

    Returns:
        For every prompt its ids, 0 in place of vector tokens, and its embeddings `[length, width]` in the
        table's dtype, differentiable with respect to the projector and, where it is trained, the table.
    """
    lengths = [len(prompt) for prompt in prompts]
    ids = torch.tensor([token for prompt in prompts for token in prompt], dtype=torch.long)
    places = (ids >= first_vector_token).nonzero().squeeze(1)
    rows = ids[places] - first_vector_token
    ids[places] = 0
    device = table.weight.device
    embedded = table(ids.to(device))
    vectors = projector(rows.to(device)).to(embedded.dtype)
    filled = embedded.index_copy(0, places.to(device), vectors)
    return [part.tolist() for part in ids.split(lengths)], list(filled.split(lengths))
