"""How likely each of many responses is behind its prompt, without gradients: for choosing, not for training.

All responses of a prompt are branches of one packed row (`score.py`), so a prompt is run once however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from recbole_soft.llm.packing import Tokens
from recbole_soft.llm.score import score_responses


@torch.no_grad()
def branch_nll(
    model: nn.Module,
    prompts: Sequence[Tokens],
    branches: Sequence[Sequence[Tokens]],
    *,
    batch_size: int = 16,
    fast: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Negative log-likelihood of every response, in evaluation mode (put back afterwards).

    Args:
        model: causal language model, with or without a PEFT adapter.
        prompts: B non-empty token lists.
        branches: per prompt any number of responses, each with its end-of-text token.
        batch_size: prompts at once; batches are of prompts of similar length.
        fast: False scores the plain way.
        progress: called with the number of prompts done since it was last called.

    Returns:
        Per prompt `[number of its responses]` float32 on the CPU, sums over response tokens in nats.
    """
    found: list[Tensor] = [torch.zeros(0)] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for first in range(0, len(order), batch_size):
            batch = order[first: first + batch_size]
            width = max(len(branches[number]) for number in batch)
            # A response that a prompt does not have is empty: it costs nothing and is cut off again.
            columns = {str(column): [branches[number][column] if column < len(branches[number]) else []
                                     for number in batch] for column in range(width)}
            scores = score_responses(model, [prompts[number] for number in batch], columns, fast=fast)
            if scores:
                table = torch.stack([score.nll for score in scores.values()], dim=1).float().cpu()
                for number, row in zip(batch, table, strict=True):
                    found[number] = row[: len(branches[number])].clone()
            if progress is not None:
                progress(len(batch))
    finally:
        for module in in_training:
            module.training = True
    return found
