"""Where a model's unfinished results are kept, and the hash of all that decides its answers.

Answers are generated in parts (`resuming/parts.py`), each by itself: what is generated together decides last digits,
and through them, now and then, an answer. So parts are cut alike whether or not anything is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_soft.artifacts import PARTS, UNFINISHED, content_key
from recbole_soft.resuming.parts import Parts
from recbole_soft.resuming.states import tensor_hash

if TYPE_CHECKING:
    from recbole_soft.models.base import LLMRecommender

# Prompts that are answered together, in batches of generation.
BATCHES_IN_A_PART = 8
_SEARCH_SETTINGS = ("decoding", "fast_path", "dtype", "quantization", "generation_batch_size")


def unfinished_parts(config) -> Parts:
    """Where parts of a run's unfinished results are; nowhere for a model outside of a run folder."""
    folder = config["run_folder"]
    return Parts(Path(folder) / UNFINISHED / PARTS if folder else None, config["checkpoint_seconds"])


def key_of_answers(model: LLMRecommender, prompts: Sequence[Sequence[int]]) -> str:
    """Hash of all that decides the answers: the very weights, the search, the prompts and their batches."""
    return content_key(weights=fingerprint_of_weights(model), beams=asdict(model.beams), prompts=prompts,
                       search=[model.options[name] for name in _SEARCH_SETTINGS], batches=BATCHES_IN_A_PART,
                       titles=model.catalog.fingerprint, device=model.backbone.device.type)


def fingerprint_of_weights(model: LLMRecommender) -> str:
    """Hash of the base model, of the very weights that are switched on, and of what else the model reads."""
    name = model.weights.active
    own = {} if name is None else {key: tensor_hash(value) for key, value in model.weights.state(name).items()}
    return content_key(base=model.base_fingerprint, tokenizer=model.backbone.tokenizer.fingerprint, own=own,
                       scale=model.options["lora_alpha"], deciding=[model.deciding(), model.deciding_parts()])
