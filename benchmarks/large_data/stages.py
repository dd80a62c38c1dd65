"""What is measured: each stage gets ready, does its work against the clock, and tells a few figures about it.

`python -m benchmarks.large_data.stages NAME FOLDER SIZE` runs one in this process and prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.large_data.generate import Scale, titles_of, write_atomic, write_raw
from recbole_soft.artifacts import ArtifactStore, file_hash

NAME = "large"
VECTOR_WIDTH = 2048  # Llama 3.2 1B
WINDOWS_RANKED = 1000
TABLE_KEY = "measured"

Work = Callable[[], Any]
Figures = Callable[[Any], dict[str, Any]]


def prepare(engine: str, k_core: int | None = None) -> Callable[[Path, Scale], tuple[Work, Figures]]:
    """Raw files to atomic files, as `prepare --engine=...` does it: all interactions, or with `--k_core` the core."""

    def ready(folder: Path, scale: Scale) -> tuple[Work, Figures]:
        from recbole_soft.data.amazon import prepare_amazon
        from recbole_soft.data.prep_engine import make_engine

        make_engine(engine)  # imports
        ratings, metadata = write_raw(folder, scale)
        out = folder / (f"{engine}-{k_core}-core" if k_core else engine)

        def figures(manifest) -> dict[str, Any]:
            hashes = [file_hash(out / NAME / f"{NAME}.{kind}") for kind in ("inter", "item")]
            left_out = sum(count for reason, count in manifest.dropped.items() if "by counts" in reason)
            return {"rows": manifest.written.interactions, "left out by counts": left_out,
                    "10-core": str(manifest.ten_core), "files": sha256("".join(hashes).encode()).hexdigest()[:12]}

        return lambda: prepare_amazon(ratings, metadata, out, NAME, k_core=k_core, progress=False,
                                      engine=engine), figures

    return ready


def load(way: str, then_build: bool = False, of_raw: bool = False) -> Callable[[Path, Scale], tuple[Work, Figures]]:
    """Atomic files to RecBole's dataset (10-core included), or from there to the windows of the three splits.

    Args:
        way: `recbole` for its SequentialDataset, `ours` for SoftDataset, `ours by RecBole's steps` for SoftDataset
            without the steps of `quick_loading`.
        then_build: measures `build`, all windows kept, after loading.
        of_raw: loads what `prepare` has written, all interactions.
    """

    def ready(folder: Path, scale: Scale) -> tuple[Work, Figures]:
        import recbole_soft  # noqa: F401  mends RecBole
        from recbole_soft.config.soft_config import SoftConfig
        from recbole_soft.data.dataset import SoftDataset

        class BySteps(SoftDataset):
            quick_loading_wanted = False

        if of_raw:
            data_path = folder / "pandas"
            data_path = data_path if data_path.is_dir() else folder / "polars"
        else:
            data_path = write_atomic(folder / "atomic", NAME, scale)
        columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}} if way == "recbole" else {}
        config = SoftConfig("SASRec", NAME, config_dict={
            "data_path": str(data_path), "train_sample": "full", "valid_sample": "full", "test_sample": "full",
            "use_gpu": False, **columns})
        if way == "recbole":
            from recbole.data.dataset import SequentialDataset as Chosen
        else:
            Chosen = SoftDataset if way == "ours" else BySteps
        if not then_build:
            return lambda: Chosen(config), lambda data: {
                "users": data.user_num - 1, "items": data.item_num - 1, "interactions": len(data.inter_feat)}
        data = Chosen(config)
        return data.build, lambda splits: {"windows": sum(map(len, splits))} | _fingerprints(splits)

    return ready


def _fingerprints(splits: list[Any]) -> dict[str, Any]:
    if not hasattr(splits[0], "fingerprint"):
        return {}
    started = time.perf_counter()
    found = [split.fingerprint() for split in splits]
    return {"fingerprints": "".join(text[:4] for text in found), "seconds of fingerprints":
            round(time.perf_counter() - started, 2)}


def item_table(folder: Path, scale: Scale) -> tuple[Work, Figures]:
    """The table of title vectors as `TitleVectors` gathers and keeps it; random vectors in place of a model's."""
    from recbole_soft.llm.title_vectors import TitleVectors

    titles = [f"{title} {place}" for part in titles_of(scale.items) for place, title in enumerate(part)]
    titles = list(dict.fromkeys(titles))

    class RandomVectors(TitleVectors):
        def __init__(self) -> None:
            self._row = {title: row for row, title in enumerate(titles)}
            self._store, self._seconds, self._key = ArtifactStore(folder / "artifacts"), 60, TABLE_KEY
            self.draw = torch.Generator().manual_seed(0)

        def _embed(self, texts, progress=None, alike=False):
            return torch.randn(len(texts), VECTOR_WIDTH, generator=self.draw)

    shutil.rmtree(folder / "artifacts", ignore_errors=True)  # a table of an earlier measurement would be reused
    vectors = RandomVectors()
    return lambda: vectors._obtain(None), lambda table: {"titles": len(table), "width": table.shape[1]}


def trie(folder: Path, scale: Scale) -> tuple[Work, Figures]:
    """The tree of title tokens for constrained decoding; the tokens of a BPE of 6,000 made from the titles."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from recbole_soft.llm.trie import TokenTrie

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator(next(titles_of(20_000)), trainers.BpeTrainer(
        vocab_size=6000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokens = [encoding.ids for titles in titles_of(scale.items) for encoding in tokenizer.encode_batch_fast(titles)]
    return lambda: TokenTrie.build(tokens, tokenizer.get_vocab_size()), lambda tree: {
        "titles": len(tokens), "tokens": sum(map(len, tokens)), "nodes": len(tree.token)}


def ranking(folder: Path, scale: Scale) -> tuple[Work, Figures]:
    """Ranks of 1,000 targets by distance to answers that lie near them; the table that `item table` has written."""
    from safetensors.torch import load_file

    from recbole_soft.grounded_ranks import grounded_ranks

    table = load_file(folder / "artifacts" / f"item-table-{TABLE_KEY}" / "vectors.safetensors")["vectors"]
    draw = torch.Generator().manual_seed(1)
    targets = torch.randint(len(table), (WINDOWS_RANKED,), generator=draw)
    answers = table[targets] + 1.5 * torch.randn(WINDOWS_RANKED, table.shape[1], generator=draw)
    return lambda: grounded_ranks(answers, table, targets), lambda ranks: {
        "windows": len(ranks), "items": len(table), "median rank": int(ranks.median())}


BY_RECBOLE = "ours by RecBole's steps"
STAGES: dict[str, Callable[[Path, Scale], tuple[Work, Figures]]] = {
    "prepare, pandas": prepare("pandas"),
    "prepare, polars": prepare("polars"),
    "prepare 10-core, pandas": prepare("pandas", 10),
    "prepare 10-core, polars": prepare("polars", 10),
    "load, RecBole": load("recbole"),
    "load, RecBole's steps": load(BY_RECBOLE),
    "load": load("ours"),
    "load all that prepare wrote, RecBole's steps": load(BY_RECBOLE, of_raw=True),
    "load all that prepare wrote": load("ours", of_raw=True),
    "windows and split, RecBole": load("recbole", then_build=True),
    "windows and split, RecBole's steps": load(BY_RECBOLE, then_build=True),
    "windows and split": load("ours", then_build=True),
    "item table": item_table,
    "trie": trie,
    "ranking": ranking,
}


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def main(name: str, folder: str, factor: str) -> int:
    """Runs one stage here; the peak is that of the whole process while the stage works."""
    work, figures = STAGES[name](Path(folder), Scale(float(factor)))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # from here on the high-water mark counts
    before = _peak_mb()
    started, started_cpu = time.perf_counter(), time.process_time()
    outcome = work()
    found = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - started_cpu,
             "peak_mb": _peak_mb(), "before_mb": before}
    sys.stdout.write(json.dumps(found | {"figures": figures(outcome)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
