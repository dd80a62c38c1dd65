"""What `tests/resume_harness.py` kills: small full runs, the preparation of data, and the benchmark command.

A job is a command in a place of its own that can be started again and again, until it ends well. Its outcome is
whatever must not depend on how often it was killed.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import random
import signal
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

TIMES = ("train_seconds", "valid_seconds", "tokens_per_second")
FILE_OPERATIONS = ("replace", "fsync", "mkdir", "unlink", "rmdir", "truncate")
SMALL = {
    "show_progress": False, "state": "ERROR", "user_inter_num_interval": "[2,inf)", "use_gpu": False,
    "item_inter_num_interval": "[2,inf)", "checkpoint_seconds": 0, "train_sample": 32, "valid_sample": 12,
    "test_sample": 14, "epochs": 2, "train_batch_size": 8, "micro_batch_size": 4, "topk": [1, 5, 10, 20],
}
LANGUAGE_MODEL = {
    "tuning": "lora", "lora_dropout": 0.1, "learning_rate": 0.03, "warmup_steps": 3,
    "tiny_hidden_size": 16, "tiny_layers": 1, "tiny_heads": 2, "tiny_vocabulary": 320, "tiny_steps": 12,
    "tiny_batch_size": 2, "max_new_tokens": 5, "num_beams": 2, "generation_batch_size": 1,
}
SOFT = {"distance_sample": 12, "alpha": 10, "epochs": 3, "patience": 3}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft": ("BIGRec_SOFT", SOFT),
    "sdpo": ("BIGRec_SDPO", {"sdpo_epochs": 2}),
    "msl": ("BIGRec_SOFT", {**SOFT, "lm_loss": "msl", "decoding": "constrained", "tuning": "full"}),
    "llara": ("LLaRA_SOFT", {**SOFT, "llara_curriculum": "linear", "rec_model_settings": {"epochs": 3}}),
    "rerank": ("Rerank_SFT", {"retriever": "Pop", "rerank_candidates": 4}),
    "icl": ("BIGRec_ICL", {"demos": "effect", "demo_candidates": 2, "demo_copies": 1}),
    "sasrec": ("SASRec", {"epochs": 6}),
    "dros": ("DROS_GRU4Rec", {"epochs": 4}),
}
LEFT_OVER = (".*", "unfinished")
RATED, RATERS = 1500, 60  # items and users of the raw files: enough lines for kills to fall between
Outcome = dict[str, Any]
"""By name: whatever must not depend on interruptions."""


class Job(ABC):
    """A command in a place of its own.

    Args:
        data: folder that holds the data set `toy` and the raw files `ratings` and `metadata`; shared by all jobs.
        place: folder of this job alone; exists and is empty.
    """

    exit_codes: tuple[int, ...] = (0,)  # with which a life may end that nobody killed as a whole
    about = ""

    def __init__(self, data: Path, place: Path):
        self._data, self._place = data, place

    @abstractmethod
    def work(self) -> int:
        """The command, in the process that may be killed; returns its exit code."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """What the job left, once it has ended well."""

    def victims(self, process: int) -> list[int]:
        """Processes that may be killed in place of the whole job: children that it has to get over. None as a rule."""
        return []

    def start(self, dies_at: int | None = None) -> int:
        """Starts a life of the job and returns its process; it kills itself around file operation `dies_at`."""
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            os.setpgid(0, 0)
            with _dying_at(dies_at) if dies_at is not None else _counting(self._place / "operations"):
                code = self.work()
        except BaseException:  # noqa: BLE001  (a forked process must not go on in its parent's code)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def operations(self) -> int:
        """How many file operations a life that was not killed took."""
        return int((self._place / "operations").read_text())

    def left_over(self) -> list[str]:
        """Unfinished files; there may be none once the job has ended well."""
        return [str(path) for pattern in LEFT_OVER for path in self._place.rglob(pattern)]


class Run(Job):
    """A full run."""

    def __init__(self, name: str, data: Path, place: Path):
        super().__init__(data, place)
        self.about, own = RUNS[name]
        is_llm = self.about not in ("SASRec", "DROS_GRU4Rec")
        self.settings = {**SMALL, **(LANGUAGE_MODEL if is_llm else {}), **own, "data_path": str(data),
                         "checkpoint_dir": str(place / "saved"), "run_name": "run", "resume": True}
        if not is_llm:
            del self.settings["train_sample"]

    def work(self) -> int:
        from recbole_soft.run import run_recbole_soft

        run_recbole_soft(self.about, "toy", config_dict=self.settings)
        return 0

    def outcome(self) -> Outcome:
        return outcome_of_run(self._place / "saved" / "run")


class Preparation(Job):
    """`prepare`, from raw files to atomic files."""

    about = "prepare"

    def work(self) -> int:
        from recbole_soft.cli import main

        with _printing_to(self._place / "printed.txt"):
            return main(["prepare", f"--ratings={self._data / 'ratings'}", f"--metadata={self._data / 'metadata'}",
                         f"--out={self._place / 'out'}", "--name=made", "--k_core=3", "--resume"])

    def outcome(self) -> Outcome:
        made = self._place / "out" / "made"
        manifest = json.loads((made / "made.manifest.json").read_text(encoding="utf-8"))
        del manifest["created"]
        return {"manifest": manifest, "files": sorted(path.name for path in made.iterdir()),
                **{name: _hash(made / name) for name in ("made.inter", "made.item")}}


class BenchmarkRun(Job):
    """`benchmark`, with a recipe of two tiny cells, each a process of its own. Either it or a cell may be killed."""

    about = "benchmark of SASRec and BIGRec_SFT"
    exit_codes = (0, 1)

    def work(self) -> int:
        from recbole_soft.cli import main

        os.chdir(self._place)  # so that names in tables are those of any other place
        settings = {**SMALL, "data_path": str(self._data), "checkpoint_dir": "saved"}
        del settings["train_sample"], settings["show_progress"]
        recipe = {"datasets": ["toy"], "seeds": [1], "models": ["SASRec", "BIGRec_SFT"], "output": "results",
                  "settings": settings, "settings_llm": {**LANGUAGE_MODEL, "train_sample": 32}, "baseline": "SASRec",
                  "settings_traditional": {"epochs": 6}}
        Path("two_cells.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
        with _printing_to(Path("printed.txt")):
            return main(["benchmark", "--config=two_cells.yaml"])

    def outcome(self) -> Outcome:
        import numpy as np

        results = self._place / "results"
        found: Outcome = {path.name: path.read_text(encoding="utf-8") for path in results.glob("table.*")}
        with np.load(results / "ranks.npz") as ranks:
            found["ranks.npz"] = {name: ranks[name].tolist() for name in ranks.files}
        for run in sorted((self._place / "saved").glob("*-toy-*")):
            found |= {f"{run.name}/{name}": value for name, value in outcome_of_run(run).items()}
        return found

    def victims(self, process: int) -> list[int]:
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(process).children()
                    if "recbole_soft.benchmark.process" in child.cmdline()]
        return []


JOBS: dict[str, Callable[[Path, Path], Job]] = {
    **{name: lambda data, place, name=name: Run(name, data, place) for name in RUNS},
    "prepare": Preparation, "benchmark": BenchmarkRun,
}


def outcome_of_run(run: Path) -> Outcome:
    """Ranks, curves but for their times, and the sha256 of all weights of a finished run."""
    with open(run / "curves.csv", encoding="utf-8") as file:
        curves = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    return {"curves": curves, **{path.name: path.read_text() for path in sorted(run.glob("ranks_*.csv"))},
            **{str(path.relative_to(run)): _hash(path) for path in sorted(run.rglob("*.safetensors"))}}


def write_raw_files(data: Path, seed: int) -> None:
    """`ratings` and `metadata` as Amazon's edition of 2023 has them."""
    chance = random.Random(seed)
    rows = [f"AE{user:010d},B{item:09d},{chance.randint(1, 5)}.0,{1_400_000_000_000 + chance.randrange(10**9)}"
            for user in range(RATERS) for item in chance.sample(range(RATED), 300)]
    records = [json.dumps({"parent_asin": f"B{item:09d}", "title": f"Title {item}", "categories": ["Some", "Thing"]})
               for item in range(RATED)]
    (data / "ratings").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (data / "metadata").write_text("\n".join(records) + "\n", encoding="utf-8")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """The process of a job has only this command to run, so its descriptors may be changed for good."""
    with path.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield


@contextmanager
def _watched(each: Callable[[], None]) -> Iterator[None]:
    """Calls `each` right before and right after every operation on files."""
    originals = {name: getattr(os, name) for name in FILE_OPERATIONS}

    def wrapped(original: Callable) -> Callable:
        def operation(*arguments, **named):
            each()
            result = original(*arguments, **named)
            each()
            return result
        return operation

    for name, original in originals.items():
        setattr(os, name, wrapped(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


@contextmanager
def _counting(file: Path) -> Iterator[None]:
    counted = [0]

    def count() -> None:
        counted[0] += 1

    with _watched(count):
        yield
    file.write_text(str(counted[0]))


@contextmanager
def _dying_at(moment: int) -> Iterator[None]:
    left = [moment]

    def die() -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with _watched(die):
        yield
