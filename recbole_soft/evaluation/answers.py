"""What a stage answered to the test windows: figures for the record, and examples to read.

The answers are those that were ranked: the model remembers them until its weights change, so nothing is generated
again. Models that do not answer with titles (Rerank) have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_soft.artifacts import write_lines
from recbole_soft.distill import summarise
from recbole_soft.grounding import distances, item_scores
from recbole_soft.models.base import LLMRecommender
from recbole_soft.models.grounded_answers import ground_answers

SHOWN_NEAREST = 5


def describe_answers(
    model: LLMRecommender, eval_data, ranks: np.ndarray, stage: str, folder: Path, examples: int
) -> dict[str, Any]:
    """What the record says of the answers of a stage; the first of them go to `examples_STAGE.jsonl`, to be read.

    Args:
        ranks: [n] ranks of the targets of the split, under the weights that are switched on.
        examples: how many windows go to the file.
    """
    about: dict[str, Any] = {"answers": answer_figures(model, eval_data)}
    shown = answer_examples(model, eval_data, ranks, examples)
    if shown:
        about["examples_file"] = f"examples_{stage}.jsonl"
        write_lines(folder / about["examples_file"], shown)
    return about


def answer_figures(model: LLMRecommender, eval_data) -> dict[str, float | int | None] | None:
    """Validity, variety, category accuracy and distance of the answers to a split; None for models without answers.

    `hr_at_1` is that of the answers' nearest titles, before items that are no candidates are taken out.
    """
    if not model.answers_with_titles:
        return None
    interaction = eval_data.dataset.inter_feat
    items = interaction[model.ITEM_ID]
    titles, categories = ([column[item] for item in items.tolist()]
                          for column in (model.catalog.titles, model.catalog.categories))
    rows = model.title_rows[items.to(model.title_rows.device) - 1]
    answers = model.answer(model.prompts(interaction))
    return summarise(ground_answers(model, answers, titles, categories, rows))


@torch.no_grad()
def answer_examples(model: LLMRecommender, eval_data, ranks: np.ndarray, count: int) -> list[dict[str, Any]]:
    """The first `count` windows of a split with prompt, target, answers, the items nearest to the best one, and rank.

    Args:
        ranks: [n] ranks of the targets of the split, under the weights that are switched on.

    Returns:
        Dictionaries that JSON can hold. `nearest` has the items nearest to the answer, `is_candidate` being false for
        those that `mask_history` takes out of the ranking.
    """
    count = min(count, len(ranks))
    if not (count and model.answers_with_titles):
        return []
    interaction, masked, _, targets = eval_data.collate_fn(np.arange(count))
    prompts = model.prompts(interaction)
    vectors = model.title_vectors.lookup(model.answered_titles(prompts))
    scores = item_scores(distances(vectors, model.title_vectors.table()), model.title_rows).cpu()
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :SHOWN_NEAREST]
    is_masked = torch.zeros(scores.shape, dtype=torch.bool)
    if masked is not None:
        is_masked[masked] = True
    titles = model.catalog.titles
    return [{
        "window": row, "rank": int(ranks[row]), "target": titles[targets[row]],
        "target_distance": -float(scores[row, targets[row]]), "history": history, "answers": answers,
        "nearest": [{"title": titles[item], "distance": -float(scores[row, item]),
                     "is_candidate": not bool(is_masked[row, item])} for item in order[row].tolist()],
        "prompt": model.prompt_text(prompt),
    } for row, (history, answers, prompt) in enumerate(zip(
        model.histories(interaction), model.answer_beams(prompts), prompts, strict=True))]
