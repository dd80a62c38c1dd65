"""The item table: one vector of the frozen base model per distinct title, kept on disk by content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_soft.artifacts import PARTS, ArtifactStore, content_key
from recbole_soft.llm.adapters import TunedWeights
from recbole_soft.llm.backbone import Backbone
from recbole_soft.llm.embed import embed_texts
from recbole_soft.resuming.checkpoints import Checkpoints

TITLES_IN_A_PART = 4096


class TitleVectors:
    """Vectors of titles and answers under the base model.

    Args:
        titles: distinct titles; row i of `table` is the vector of title i.
        base_fingerprint: hash of the base weights, part of the key on disk.
        store: where the table is kept, or None to keep none.
        seconds: how often the unfinished table is saved.
    """

    def __init__(
        self, backbone: Backbone, weights: TunedWeights, titles: Sequence[str], pooling: str, batch_tokens: int | None,
        base_fingerprint: str, store: ArtifactStore | None = None, seconds: float = 60,
    ):
        self._backbone, self._weights = backbone, weights
        self._pooling, self._batch_tokens = pooling, batch_tokens
        self._row = {title: row for row, title in enumerate(titles)}
        self._key = content_key(base=base_fingerprint, tokenizer=backbone.tokenizer.fingerprint, pooling=pooling,
                                titles=list(titles), attention=backbone.model.config._attn_implementation)
        self._store, self._seconds = store, seconds
        self._table: Tensor | None = None
        self._answers: dict[str, Tensor] = {}
        self.was_reused = False

    def table(self, progress: Callable[[int], None] | None = None) -> Tensor:
        """[n_titles, d] float32."""
        if self._table is None:
            self._table = self._obtain(progress).to(self._backbone.device)
        return self._table

    def lookup(self, texts: Sequence[str]) -> Tensor:
        """[n, d] vectors of answers; an answer that is a title takes its row of the table, others are
        embedded once."""
        table = self.table()
        unknown = [text for text in dict.fromkeys(texts) if text not in self._row and text not in self._answers]
        if unknown:
            # Which answers are still unknown depends on what was looked up before: in a run that goes on after a
            # kill, in one that reuses a stage. Their vectors must not depend on it, not even in last digits.
            self._answers.update(zip(unknown, self._embed(unknown, alike=True), strict=True))
        if not texts:
            return table[:0]
        return torch.stack([table[self._row[text]] if text in self._row else self._answers[text] for text in texts])

    def is_title(self, text: str) -> bool:
        return text in self._row

    def _embed(self, texts: Sequence[str], progress: Callable[[int], None] | None = None,
               alike: bool = False) -> Tensor:
        with self._weights.base() as model:
            return embed_texts(self._backbone, model, texts, self._pooling, self._batch_tokens, progress, alike)

    def _obtain(self, progress: Callable[[int], None] | None) -> Tensor:
        if self._store is None:
            return self._embed(list(self._row), progress)

        def make(folder: Path) -> None:
            saves = Checkpoints(folder / PARTS, self._seconds, self._key)
            save_file({"vectors": self._in_parts(saves, progress)}, folder / "vectors.safetensors")

        folder, self.was_reused = self._store.obtain("item-table", self._key, make)
        return load_file(folder / "vectors.safetensors")["vectors"]

    def _in_parts(self, saves: Checkpoints, progress: Callable[[int], None] | None) -> Tensor:
        """[n_titles, d] on the CPU, some thousand titles after the others; goes on from what was saved."""
        titles, checkpoint = list(self._row), saves.latest()
        done, vectors = 0, None
        if checkpoint is not None:
            vectors, done = _with_room(checkpoint.tensors["vectors"], len(titles)), len(checkpoint.tensors["vectors"])
            if progress is not None:
                progress(done)
        del checkpoint
        for first in range(done, len(titles), TITLES_IN_A_PART):
            some = self._embed(titles[first: first + TITLES_IN_A_PART], progress).cpu()
            done = first + len(some)
            if vectors is None:
                vectors = _with_room(some, len(titles))
            vectors[first: done] = some
            if saves.is_due():
                saves.write({}, {"vectors": vectors[:done]})
        return vectors


def _with_room(vectors: Tensor, count: int) -> Tensor:
    """[count, d] with the vectors first: one table that is filled, for a large catalogue's does not fit twice."""
    table = vectors.new_empty(count, vectors.shape[1])
    table[: len(vectors)] = vectors
    return table
