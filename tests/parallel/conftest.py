"""Launches runs in several processes, as a user does, and the same runs in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = int(os.environ.get("LAUNCH_SECONDS", "280"))


@dataclass(frozen=True)
class Ended:
    """How a launch ended."""

    code: int
    text: str


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ended]:
    """`launch(runs, processes=2)` runs `several_runs.py` under torchrun."""

    def start(runs: list[dict], processes: int = 2) -> Ended:
        file = tmp_path_factory.mktemp("launch") / "runs.json"
        file.write_text(json.dumps(runs))
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
                 str(Path(__file__).with_name("several_runs.py")), str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(words, cwd=file.parent, env=environment, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        try:
            text, _ = process.communicate(timeout=LIMIT_SECONDS)
        finally:
            process.terminate()  # torchrun ends its processes then, whatever has happened
        return Ended(process.returncode, text)

    return start


@pytest.fixture(scope="session")
def small(toy_path: Path) -> Callable[..., dict]:
    """Settings of a small run with numbers that two cannot divide."""

    def make(folder: Path, model: str = "BIGRec_SOFT", **changes) -> dict:
        return {
            "model": model, "dataset": "toy", "data_path": str(toy_path), "checkpoint_dir": str(folder),
            "run_name": "run", "artifacts_dir": str(folder.parent / "artifacts"), "show_progress": False,
            "state": "WARNING", "user_inter_num_interval": "[2,inf)",
            "item_inter_num_interval": "[2,inf)", "train_sample": 29, "valid_sample": 9, "test_sample": 15, "epochs": 2,
            "train_batch_size": 16, "micro_batch_size": 3, "tuning": "lora", "lora_dropout": 0.1,
            "learning_rate": 0.02, "warmup_steps": 1, "tiny_hidden_size": 32, "tiny_layers": 2, "tiny_heads": 2,
            "tiny_vocabulary": 400, "tiny_steps": 20, "tiny_batch_size": 8, "max_new_tokens": 8, "num_beams": 2,
            "generation_batch_size": 4, "topk": "[1,5,10,20]", **changes,
        }

    return make
