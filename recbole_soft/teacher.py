"""What a language model teaches a small recommender, as files: item vectors, and a ranked list per training window.

Written by `export-teacher`, read by DLLM2Rec. Windows go by their id, items by RecBole's id, and a fingerprint of the
data says whether both mean the same in another run; row order never matters. JSON and safetensors only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_soft.artifacts import disk_errors, read_json, write_json
from recbole_soft.errors import ModelError

MANIFEST = "teacher.json"
TENSORS = "teacher.safetensors"
FORMAT = 1
_REMEDY = "write it anew: python run_recbole_soft.py export-teacher --run=saved/RUN --out=FOLDER"


@dataclass(frozen=True)
class Teacher:
    """A teacher's knowledge.

    Attributes:
        vectors: [n_items, d] float32 vectors of the items' texts; row 0, RecBole's padding item, is 0.
        window_ids: [n] ids of the training windows that have a list.
        items: [n, k] item ids, best first; 0 where fewer than k items were candidates.
        distances: [n, k] float32, ascending; 0 where `items` is 0.
        about: data fingerprint (`data`), `distance_scale`, and where it comes from.
    """

    vectors: Tensor
    window_ids: Tensor
    items: Tensor
    distances: Tensor
    about: dict[str, Any]

    @property
    def distance_scale(self) -> float:
        return float(self.about["distance_scale"])


def distance_spread(items: Tensor, distances: Tensor) -> float:
    """Mean over lists of the last distance minus the first: the unit in which confidences are measured.

    Args:
        items: [n, k], 0 where there is none.
        distances: [n, k] ascending.

    Returns:
        Above 0; 1 where all distances of every list are equal.
    """
    lengths = (items > 0).sum(1)
    rows = lengths > 1
    last = distances.gather(1, (lengths - 1).clamp_min(0)[:, None]).squeeze(1)
    spread = float((last - distances[:, 0])[rows].double().mean()) if rows.any() else 0.0
    return spread if spread > 0 else 1.0


def write_teacher(folder: Path, teacher: Teacher) -> None:
    """Writes a folder; the manifest comes last, so that a folder without one is unfinished."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    tensors = {"vectors": teacher.vectors, "window_ids": teacher.window_ids, "items": teacher.items.int(),
               "distances": teacher.distances}
    with disk_errors(folder):
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / TENSORS)
    write_json(folder / MANIFEST, {**teacher.about, "format": FORMAT, "windows": len(teacher.window_ids)})


def read_teacher(folder: Path, fingerprint: str) -> Teacher:
    """Reads a folder for a run.

    Args:
        fingerprint: `sequences_fingerprint` of the run's data.

    Raises:
        ModelError: the folder is unfinished or damaged, or belongs to other data.
    """
    try:
        about = read_json(folder / MANIFEST)
        tensors = load_file(folder / TENSORS)
        teacher = Teacher(tensors["vectors"], tensors["window_ids"], tensors["items"].long(), tensors["distances"],
                          about)
        if about["format"] != FORMAT or len(teacher.items) != about["windows"] or teacher.distance_scale <= 0:
            raise ValueError("its files do not belong together")
        theirs = about["data"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"the teacher cannot be read: {next(iter(str(error).splitlines()), error)}",
                         where=f"teacher={folder}", remedy=_REMEDY) from error
    if theirs != fingerprint:
        raise ModelError(f"the teacher was made from other data ({about.get('dataset')}, fingerprint {theirs}; this "
                         f"run has {fingerprint}), so its items and windows mean others", where=f"teacher={folder}",
                         remedy="use the data set, filter, windows and split of the teacher's run, or " + _REMEDY)
    return teacher


def rows_of_windows(window_ids: Tensor, window_count: int) -> Tensor:
    """[window_count] row of each window's list, -1 where it has none."""
    rows = torch.full((window_count,), -1, dtype=torch.long)
    rows[window_ids.long()] = torch.arange(len(window_ids))
    return rows
