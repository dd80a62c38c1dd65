"""What a model answered, held against its catalogue: is it a title, which title is nearest, how far is the target.

For figures and examples; ranks come from `models/bigrec.py`. The nearest title is by L2 distance of title vectors,
before anything that a ranking adds to it (items that are no candidates, injection, beams first).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_soft.distill import GroundedAnswer
from recbole_soft.grounding import distance_chunks
from recbole_soft.models.base import LLMRecommender
from recbole_soft.parallel.group import shared_out


@torch.no_grad()
def ground_answers(
    model: LLMRecommender, answers: Sequence[str], targets: Sequence[str], categories: Sequence[str],
    target_rows: Tensor,
) -> list[GroundedAnswer]:
    """One entry per answer; every distinct answer is compared with the catalogue once.

    Args:
        answers: raw texts, quotes and all.
        targets, categories: titles and categories of the true items; an empty category is none.
        target_rows: [n] rows of the true titles in the item table.
    """
    catalog, vectors_of = model.catalog, model.title_vectors
    titles = [model.encoder.template.unquoted(answer) for answer in answers]
    vectors_of.table()  # made together, before each process does its share alone
    compared = shared_out(range(len(titles)), lambda numbers: _compared(
        model, [titles[number] for number in numbers], target_rows[list(numbers)]))
    category_of = {title: catalog.categories[items[0]] for title, items in catalog.items_of_title.items()}
    result = []
    for number, (answer, title) in enumerate(zip(answers, titles, strict=True)):
        (nearest, distance), category = compared[number], categories[number]
        grounded = catalog.unique_titles[nearest]
        result.append(GroundedAnswer(
            target=targets[number], answer=answer, grounded=grounded, distance=distance,
            is_title=vectors_of.is_title(title),
            category_matches=category_of[grounded] == category if category else None,
        ))
    return result


def _compared(model: LLMRecommender, titles: Sequence[str], target_rows: Tensor) -> list[tuple[int, float]]:
    """Per answered title, the nearest title's row and the distance to the target."""
    table = model.title_vectors.table()
    row_of = {title: row for row, title in enumerate(dict.fromkeys(titles))}
    vectors = model.title_vectors.lookup(list(row_of))
    nearest = [row for _, chunk in distance_chunks(vectors, table) for row in chunk.argmin(1).tolist()]
    own = torch.tensor([row_of[title] for title in titles], device=table.device)
    distances = _pair_distances(vectors, own, table, target_rows)
    return [(nearest[row_of[title]], distance) for title, distance in zip(titles, distances, strict=True)]


def _pair_distances(vectors: Tensor, own: Tensor, table: Tensor, target_rows: Tensor, step: int = 4096) -> list[float]:
    """L2 distance between `vectors[own[i]]` and `table[target_rows[i]]`, some pairs at a time."""
    return [distance for mine, theirs in zip(own.split(step), target_rows.split(step), strict=True)
            for distance in (vectors[mine] - table[theirs]).norm(dim=1).tolist()]
