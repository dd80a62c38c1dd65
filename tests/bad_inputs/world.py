"""The small world that every case of the corpus gets a copy of; `case.py` lists what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recbole_soft import cli
from tests.bad_inputs.case import Case
from tests.toys import toy_model, toy_titles, toy_tokenizer, write_toy_dataset

SETTINGS: dict[str, Any] = {
    "model": "BIGRec_SFT", "dataset": "mine", "data_path": "data", "checkpoint_dir": "saved", "artifacts_dir": "store",
    "show_progress": False, "use_gpu": False,
    "user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)",
    "train_sample": 16, "valid_sample": 8, "test_sample": 8, "epochs": 1, "train_batch_size": 16,
    "tiny_hidden_size": 32, "tiny_layers": 2, "tiny_heads": 2, "tiny_vocabulary": 400, "tiny_steps": 2,
    "tiny_batch_size": 4, "tuning": "lora", "lora_r": 4, "max_new_tokens": 4, "num_beams": 2, "topk": [1, 5],
    "valid_metric": "Hit@5", "metrics": "[Hit,NDCG]",
}
RATED = 12


def words_of(case: Case) -> list[str]:
    """The words of the command that a case runs."""
    if case.argv is not None:
        return list(case.argv)
    settings = {key: value for key, value in {**SETTINGS, **case.words}.items() if value is not None}
    return [f"--{key}={value}" for key, value in settings.items()]


def build(folder: Path) -> None:
    """Makes the world in `folder`, which has to be the current folder."""
    write_toy_dataset(folder / "data" / "mine", name="mine")
    (folder / "raw").mkdir()
    rows = [f"U{user},B{(user + step) % RATED:09d},5.0,{1_600_000_000 + 100 * step + user}"
            for user in range(RATED) for step in range(10)]
    (folder / "raw" / "ratings.csv").write_text("\n".join(["user_id,parent_asin,rating,timestamp", *rows]) + "\n")
    items = [{"parent_asin": f"B{item:09d}", "title": title, "categories": ["Games", "Toys"]}
             for item, title in enumerate(toy_titles(RATED))]
    (folder / "raw" / "items.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")
    toy_model("llama", 400).save_pretrained(folder / "llm")
    toy_tokenizer(toy_titles(24) * 3).save_pretrained(folder / "llm")
    for model, name in (("BIGRec_SFT", "sft"), ("Pop", "pop")):
        assert cli.main(words_of(Case(name, {"model": model, "run_name": name}))) == 0


def apply_changes(case: Case, folder: Path) -> None:
    """Puts the files of a case into its copy of the world."""
    for name, change in case.files.items():
        path = folder / name
        content = change(path.read_bytes()) if callable(change) else change
        if content is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a world; logs grow and are left out."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "run.log"}
