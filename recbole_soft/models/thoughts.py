"""Chains of thought for LLM-CF's pool: none, from a file, or written by a language model, each text once.

Texts are JSON lines, appended batch by batch: an interrupted run goes on where it stopped. The first line says which
data and model they belong to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from recbole_soft.artifacts import content_key, disk_errors, write_text
from recbole_soft.errors import DataError
from recbole_soft.llm.frozen import FrozenModel
from recbole_soft.models.example_pool import ExamplePool
from recbole_soft.prompts.chain_of_thought import CONSIDERATIONS, VERSION, ThoughtRequest, thought_request
from recbole_soft.resuming.locks import one_at_a_time

Key = tuple[int, bool]
WRITTEN_AT_ONCE = 64
SHORTEST = 10


def requests_of(pool: ExamplePool, titles: Sequence[str]) -> dict[Key, ThoughtRequest]:
    """What to ask about every example, by window id and whether its item was chosen."""
    requests = {}
    for window, history, length, items in zip(pool.windows.tolist(), pool.histories.tolist(), pool.lengths.tolist(),
                                              pool.items.tolist(), strict=True):
        named = [titles[item] for item in history[:length]]
        for item, was_chosen in zip(items, (True, False), strict=True):
            requests[window, was_chosen] = thought_request(named, titles[item], was_chosen)
    return requests


def read_thoughts(path: Path, data: str) -> dict[Key, str]:
    """Texts of a file.

    Args:
        data: `sequences_fingerprint` that the file's first line has to name.

    Raises:
        DataError: it cannot be read, or belongs to other data.
    """
    found: dict[Key, str] = {}
    number = 1
    try:
        # An interrupted run may have left half a line at the end: that text is asked for again.
        head, *lines = path.read_text(encoding="utf-8").split("\n")
        theirs = json.loads(head)["data"]
        for line in lines[:-1]:
            number += 1
            entry = json.loads(line)
            found[int(entry["window_id"]), bool(entry["chosen"])] = str(entry["text"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the chains of thought cannot be read: {error}", where=f"{path}, line {number}",
                        remedy='the first line is {"data": "..."}, each other '
                               '{"window_id": 7, "chosen": true, "text": "..."}') from error
    if theirs != data:
        raise DataError(f"these chains of thought belong to other data ({theirs}; this run has {data})",
                        where=str(path), remedy="use the data set, filter, windows and split they were written for")
    return found


def write_thoughts(model: FrozenModel, requests: dict[Key, ThoughtRequest], folder: Path, data: str, *, beams: int,
                   max_new_tokens: int, batch_size: int, progress: Callable[[int], None] | None = None) -> Path:
    """Has a language model write every text that the file does not hold yet; returns the file.

    Of the beams of a request the best by `quality` is kept, as published, but for its two figures about mood.
    """
    key = content_key(data=data, model=model.fingerprint, beams=beams, tokens=max_new_tokens, version=VERSION,
                      requests=[(*where, request.question) for where, request in requests.items()])
    path = folder / f"thoughts-{key}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), one_at_a_time(folder / f".{path.name}.lock"):
        done = _whole_batches(path, data, len(requests)) if path.is_file() else {}
        if not path.is_file():
            write_text(path, json.dumps({"data": data, "model": model.fingerprint}) + "\n")
        todo = [where for where in requests if where not in done]
        for first in range(0, len(todo), WRITTEN_AT_ONCE):
            batch = todo[first: first + WRITTEN_AT_ONCE]
            asked = [requests[where] for where in batch]
            answers = model.answers([(ask.task, ask.question) for ask in asked], beams, max_new_tokens, batch_size)
            texts = _best(model, asked, answers)
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps({"window_id": window, "chosen": was_chosen, "text": text},
                                           ensure_ascii=False) + "\n"
                                for (window, was_chosen), text in zip(batch, texts, strict=True))
                file.flush()
                os.fsync(file.fileno())
            if progress is not None:
                progress(len(batch))
    return path


def _whole_batches(path: Path, data: str, wanted: int) -> dict[Key, str]:
    """Texts that an interrupted run left, but for those of its last batch if that is not whole.

    What is written together decides, in rare cases, what is written: batches stay those of an uninterrupted run.
    """
    done = list(read_thoughts(path, data).items())
    kept = wanted if len(done) == wanted else len(done) - len(done) % WRITTEN_AT_ONCE
    lines = path.read_bytes().split(b"\n")
    if lines[-1] or kept < len(done):
        write_text(path, b"\n".join([*lines[: 1 + kept], b""]).decode())
    return dict(done[:kept])


def quality(text: str, completeness: float, relevance: float, consistency: float) -> float:
    """Mean of four figures: share of words that are new, and closeness to considerations, question and decision.

    LLM-CF, section "Chain of thought", without the change of mood between sentences, which needs another library.
    Texts below 10 characters count 0.
    """
    words = text.lower().split()
    if len(text) < SHORTEST or not words:
        return 0.0
    return (len(set(words)) / len(words) + completeness + relevance + consistency) / 4


def _best(model: FrozenModel, requests: Sequence[ThoughtRequest], answers: Sequence[Sequence[str]]) -> list[str]:
    flat = [text for beams in answers for text in beams]
    fixed = [*CONSIDERATIONS, *(ask.question for ask in requests), *(ask.decision for ask in requests)]
    vectors = _unit(model.vectors([*flat, *fixed], keep=False))
    texts, considerations = vectors[: len(flat)], vectors[len(flat): len(flat) + len(CONSIDERATIONS)]
    questions, decisions = vectors[len(flat) + len(CONSIDERATIONS):].chunk(2)
    best, row = [], 0
    for number, beams in enumerate(answers):
        own = texts[row: row + len(beams)]
        figures = [quality(text, *map(float, scores)) for text, *scores in zip(
            beams, (own @ considerations.T).mean(1), own @ questions[number], own @ decisions[number], strict=True)]
        best.append(beams[max(range(len(beams)), key=figures.__getitem__)])
        row += len(beams)
    return best


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)
