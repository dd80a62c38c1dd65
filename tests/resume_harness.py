"""Kills small full jobs with SIGKILL at seeded moments, goes on with --resume, and compares with uninterrupted ones.

    python -m tests.resume_harness --kills=30 --seed=0
    python -m tests.resume_harness --kills=30 --by=writes --jobs=soft,sdpo,prepare
    python -m tests.resume_harness --kills=12 --jobs=benchmark

Every life of a job is a process of its own, forked from this one, which has imported everything and run nothing.
`--by=time` kills after a random time; `--by=writes` has the process kill itself right before or right after one of its
operations on files, which is the same moment for the same seed. Of a benchmark half of the kills by time hit the
command, the others the cell that runs at that moment. Compared are ranks, curves but for their times, the bytes of
every set of weights, tables, and that nothing is left over. `docs/resuming.md` says what is proven by this.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.resume_jobs import JOBS, RUNS, Job, Outcome, write_raw_files

POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Kill:
    """A kill by time.

    Attributes:
        seconds: when, after the start of the life.
        of_child: whether a child process is killed in place of the job, if the job has one then or later.
    """

    seconds: float
    of_child: bool = False

    def __str__(self) -> str:
        return f"{self.seconds:.2f}{' (a cell)' if self.of_child else ''}"


def wait_for(job: Job, process: int, kill: Kill | None) -> bool:
    """Whether the life was killed, at its time by us, or by itself; False if it ended well before.

    Raises:
        SystemExit: it failed by itself.
    """
    started, is_killed = time.monotonic(), False
    while True:
        done, status = os.waitpid(process, os.WNOHANG if kill else 0)
        if done:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                return True
            code = os.waitstatus_to_exitcode(status)
            if code and not (is_killed and code in job.exit_codes):
                raise SystemExit(f"{job.about}: a life failed with status {code}")
            return is_killed and code != 0
        if kill and not is_killed and time.monotonic() >= started + kill.seconds:
            for victim in (job.victims(process) if kill.of_child else [process]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                is_killed = True
        time.sleep(POLL_SECONDS)


def differences(expected: Outcome, found: Outcome) -> list[str]:
    """Names of what differs."""
    return [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]


def torture(name: str, kills: int, chance: random.Random, by: str, data: Path, scratch: Path) -> int:
    """Kills a job `kills` times, in as many rounds as it takes; returns the number of finished rounds.

    Raises:
        SystemExit: a round ended with other numbers than the uninterrupted job, or left something unfinished.
    """
    reference = JOBS[name](data, _folder(scratch / f"{name}-reference"))
    started = time.monotonic()
    wait_for(reference, reference.start(), None)
    seconds, expected, operations = time.monotonic() - started, reference.outcome(), reference.operations()
    if left_over := reference.left_over():
        raise SystemExit(f"{name}: a life that nobody killed leaves {', '.join(left_over)}")
    sys.stdout.write(f"{name}: {reference.about}, uninterrupted {seconds:.1f} s, {operations // 2} file operations, "
                     f"{len(expected)} things to compare\n")
    rounds = 0
    while kills:
        job, lives, killed = JOBS[name](data, _folder(scratch / f"{name}-{rounds}")), [], True
        while killed:
            moment, started = None, time.monotonic()
            if kills and by == "writes":
                moment = chance.randint(1, operations)
                killed = wait_for(job, job.start(moment), None)
            elif kills:
                moment = Kill(chance.uniform(0, seconds), name == "benchmark" and chance.random() < 0.5)
                killed = wait_for(job, job.start(), moment)
            else:
                killed = wait_for(job, job.start(), None)
            if killed:
                kills -= 1
                lives.append(str(moment))
            elif not lives:  # the machine is not always as busy as it was: kills should fall into a life
                seconds = min(seconds, time.monotonic() - started)
        rounds += 1
        different = differences(expected, job.outcome()) + [f"left over: {path}" for path in job.left_over()]
        sys.stdout.write(f"  round {rounds}: killed {len(lives)} times ({', '.join(lives)}): "
                         f"{'DIFFERS in ' + ', '.join(different) if different else 'same numbers'}\n")
        sys.stdout.flush()
        if different:
            raise SystemExit(f"{name}-{rounds - 1} differs from {name}-reference in {', '.join(different)}; "
                             "--place=FOLDER keeps both")
    return rounds


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _import_everything() -> None:
    """Before the forks, so that lives start at once."""
    import peft  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    from recbole_soft import plugin
    from recbole_soft.benchmark import command  # noqa: F401
    from recbole_soft.config.soft_config import SoftConfig
    from recbole_soft.data import prepare_cli  # noqa: F401
    from recbole_soft.trainer import llm_trainer  # noqa: F401

    plugin.install()
    for model in {model for model, _ in RUNS.values()}:
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
        scratch = Path(options.place or temporary).resolve()
        write_toy_dataset(scratch / "data" / "toy", users=24)
        write_raw_files(scratch / "data", options.seed)
        chance, rounds, started = random.Random(options.seed), 0, time.monotonic()
        for number, name in enumerate(names):
            share = options.kills // len(names) + (number < options.kills % len(names))
            rounds += torture(name, share, chance, options.by, scratch / "data", scratch)
    sys.stdout.write(f"{options.kills} kills, {rounds} rounds, all with the same numbers; "
                     f"{time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
