"""Kills small full jobs with SIGKILL at seeded moments, goes on with --resume, and compares with uninterrupted ones.

    python -m tests.resume_harness --kills=30 --seed=0
    python -m tests.resume_harness --kills=30 --by=writes --jobs=soft,sdpo

Every life of a job is a process of its own, forked from this one, which has imported everything and run nothing.
`--by=time` kills after a random time; `--by=writes` has the process kill itself right before or right after one of its
operations on files, which is the same moment for the same seed. Compared are ranks, curves but for their times, the
bytes of every set of weights, and that nothing is left over. `docs/resuming.md` says what is proven by this.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft": ("BIGRec_SOFT", SOFT),
    "sdpo": ("BIGRec_SDPO", {"sdpo_epochs": 2}),
    "msl": ("BIGRec_SOFT", {**SOFT, "lm_loss": "msl", "decoding": "constrained", "tuning": "full"}),
    "llara": ("LLaRA_SOFT", {**SOFT, "llara_curriculum": "linear", "rec_model_settings": {"epochs": 3}}),
    "rerank": ("Rerank_SFT", {"retriever": "Pop", "rerank_candidates": 4}),
    "icl": ("BIGRec_ICL", {"demos": "effect", "demo_candidates": 2, "demo_copies": 1}),
    "sasrec": ("SASRec", {"epochs": 6}),
    "dros": ("DROS_GRU4Rec", {"epochs": 4}),
}


@dataclass(frozen=True)
class Outcome:
    """What must not depend on interruptions.

    Attributes:
        ranks: text of every file of ranks, by name.
        curves: rows without their times.
        weights: sha256 of every set of weights, by path in the run folder.
    """

    ranks: dict[str, str]
    curves: list[dict[str, str]]
    weights: dict[str, str]


class Job:
    """One command in a place of its own."""

    def __init__(self, name: str, data: Path, place: Path):
        self.model, own = JOBS[name]
        is_llm = self.model not in ("SASRec", "DROS_GRU4Rec")
        self._place = place
        self.settings = {**SMALL, **(LANGUAGE_MODEL if is_llm else {}), **own, "data_path": str(data),
                         "checkpoint_dir": str(place / "saved"), "run_name": "run", "resume": True}
        if not is_llm:
            del self.settings["train_sample"]

    def start(self, dies_at: int | None = None) -> int:
        """Starts a life of the job and returns its process; it kills itself around file operation `dies_at`."""
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            os.setpgid(0, 0)
            with _dying_at(dies_at) if dies_at is not None else _counting(self._place / "operations"):
                from recbole_soft.run import run_recbole_soft

                run_recbole_soft(self.model, "toy", config_dict=self.settings)
            code = 0
        except BaseException:  # noqa: BLE001  (a forked process must not go on in its parent's code)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def operations(self) -> int:
        """How many file operations a life that was not killed took."""
        return int((self._place / "operations").read_text())

    def outcome(self) -> Outcome:
        """What the job left; nothing unfinished may be among it."""
        run = self._place / "saved" / "run"
        left = [str(path) for pattern in (".*", "unfinished") for path in self._place.rglob(pattern)]
        if left:
            raise SystemExit(f"left over: {left}")
        with open(run / "curves.csv", encoding="utf-8") as file:
            curves = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
        return Outcome(
            {path.name: path.read_text() for path in sorted(run.glob("ranks_*.csv"))}, curves,
            {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in sorted(run.rglob("*.safetensors"))})


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


def wait_for(process: int, seconds: float | None) -> bool:
    """Whether the process was killed, after `seconds` by us, or by itself; False if it ended well before.

    Raises:
        SystemExit: it failed by itself.
    """
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(process, 0 if end is None else os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                return True
            if status:
                raise SystemExit(f"a life of the job failed with status {status}")
            return False
        if end is not None and time.monotonic() >= end:
            os.kill(process, signal.SIGKILL)
            end = None
        time.sleep(0.002)


def differences(expected: Outcome, found: Outcome) -> list[str]:
    """Names of what differs."""
    names = []
    for part in ("ranks", "weights"):
        one, other = getattr(expected, part), getattr(found, part)
        names += [f"{part} {name}" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return names + (["curves"] if expected.curves != found.curves else [])


def torture(name: str, kills: int, chance: random.Random, by: str, data: Path, scratch: Path) -> int:
    """Kills a job `kills` times, in as many rounds as it takes; returns the number of finished rounds.

    Raises:
        SystemExit: a round ended with other numbers than the uninterrupted job.
    """
    reference = Job(name, data, scratch / f"{name}-reference")
    (scratch / f"{name}-reference").mkdir()
    started = time.monotonic()
    wait_for(reference.start(), None)
    seconds, expected, operations = time.monotonic() - started, reference.outcome(), reference.operations()
    sys.stdout.write(f"{name}: {reference.model}, uninterrupted {seconds:.1f} s, {operations // 2} file operations, "
                     f"{len(expected.weights)} sets of weights, {len(expected.curves)} epochs\n")
    rounds = 0
    while kills:
        place = scratch / f"{name}-{rounds}"
        place.mkdir()
        job, lives, killed = Job(name, data, place), [], True
        while killed:
            if by == "writes":
                moment = chance.randint(1, operations) if kills else None
                killed = wait_for(job.start(moment), None)
            else:
                moment = round(chance.uniform(0, seconds), 2) if kills else None
                killed = wait_for(job.start(), moment)
            if killed:
                kills -= 1
                lives.append(moment)
        rounds += 1
        different = differences(expected, job.outcome())
        sys.stdout.write(f"  round {rounds}: killed {len(lives)} times ({', '.join(map(str, lives))}): "
                         f"{'DIFFERS in ' + ', '.join(different) if different else 'same numbers'}\n")
        sys.stdout.flush()
        if different:
            raise SystemExit(f"{name}: {place} differs from {scratch / f'{name}-reference'} in {', '.join(different)}")
    return rounds


def _import_everything() -> None:
    """Before the forks, so that lives start at once."""
    import peft  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    from recbole_soft import plugin
    from recbole_soft.config.soft_config import SoftConfig
    from recbole_soft.trainer import llm_trainer  # noqa: F401

    plugin.install()
    for model in {model for model, _ in JOBS.values()}:
        SoftConfig(model, "toy")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the harness; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=30, help="altogether, shared by the jobs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by", choices=("time", "writes"), default="time")
    parser.add_argument("--jobs", default=",".join(JOBS), help="of " + ", ".join(JOBS))
    parser.add_argument("--place", help="folder to work in, kept (default: a temporary one)")
    options = parser.parse_args(words)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    import torch

    from tests.toys import write_toy_dataset

    torch.set_num_threads(1)
    _import_everything()
    os.fsync = lambda _descriptor: None  # processes are killed here, not machines: nothing has to wait for the disk
    names = options.jobs.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(options.place or temporary)
        write_toy_dataset(scratch / "data" / "toy", users=24)
        chance, rounds, started = random.Random(options.seed), 0, time.monotonic()
        for number, name in enumerate(names):
            share = options.kills // len(names) + (number < options.kills % len(names))
            rounds += torture(name, share, chance, options.by, scratch / "data", scratch)
    sys.stdout.write(f"{options.kills} kills, {rounds} rounds, all with the same numbers; "
                     f"{time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
