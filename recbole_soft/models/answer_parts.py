"""Where a model's unfinished results and its answers to the test are kept, and the hash of all that decides them.

Answers are generated in parts (`resuming/parts.py`), each by itself: what is generated together decides last digits,
and through them, now and then, an answer. So parts are cut alike whether or not anything is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_soft.artifacts import PARTS, UNFINISHED, content_key, read_json, write_json
from recbole_soft.resuming.parts import Parts
from recbole_soft.resuming.states import tensor_hash

if TYPE_CHECKING:
    from recbole_soft.models.base import LLMRecommender

# Prompts that are answered together, in batches of generation.
BATCHES_IN_A_PART = 8
ANSWERS = "answers.json"
SEARCH_SETTINGS = ("decoding", "fast_path", "dtype", "quantization", "generation_batch_size", "attn_implementation")


def unfinished_parts(config) -> Parts:
    """Where parts of a run's unfinished results are; nowhere for a model outside of a run folder."""
    folder = config["run_folder"]
    return Parts(Path(folder) / UNFINISHED / PARTS if folder else None, config["checkpoint_seconds"])


def obtain_answers(model: LLMRecommender, dataset, progress: Callable[[int], None] | None = None) -> bool:
    """Has the model answer a split, or remember the answers that an earlier run with the very same weights gave.

    For tests: runs that share a stage (SOFT for every alpha and its SFT teacher) all report it, and at full test size
    its answers cost more than a training.

    Returns:
        whether the answers were there.
    """
    unique = list(map(list, dict.fromkeys(map(tuple, model.prompts(dataset.inter_feat)))))

    def make(folder: Path) -> dict[str, int]:
        write_json(folder / ANSWERS, model.answer_beams(unique, progress))
        return {"prompts": len(unique)}

    folder, were_there = model.store.obtain("answers", key_of_answers(model, unique), make, together=True)
    if were_there:
        model.remember_answers(unique, read_json(folder / ANSWERS))
    return were_there


def key_of_answers(model: LLMRecommender, prompts: Sequence[Sequence[int]]) -> str:
    """Hash of all that decides the answers: the very weights, the search, the prompts and their batches."""
    return content_key(weights=fingerprint_of_weights(model), beams=asdict(model.beams), prompts=prompts,
                       search=[model.options[name] for name in SEARCH_SETTINGS], batches=BATCHES_IN_A_PART,
                       titles=model.catalog.fingerprint, ends=model.backbone.ends, device=model.backbone.device.type)


def fingerprint_of_weights(model: LLMRecommender) -> str:
    """Hash of the base model, of the very weights that are switched on, and of what else the model reads."""
    name = model.weights.active
    own = {} if name is None else {key: tensor_hash(value) for key, value in model.weights.state(name).items()}
    return content_key(base=model.base_fingerprint, tokenizer=model.backbone.tokenizer.fingerprint, own=own,
                       scale=model.options["lora_alpha"], deciding=model.deciding())
