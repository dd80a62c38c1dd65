"""Runs many tiny full jobs in one process and says whether anything grows.

    python -m tests.soak --jobs=200 --seed=0
    python -m tests.soak --jobs=60 --kinds=soft,sasrec,outputs

The exit code is 1 when something grows, a job ends otherwise than it should, or a file is left outside the run folder.
`docs/soak.md` says what is measured, and why what counts as flat does.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from tests.soak.jobs import Kind, Mix, all_kinds, run_job
from tests.soak.samples import History, Sampler
from tests.soak.verdict import changed_settings, grown_types, judge, new_descriptors, table

WARM_UP = 20
PACKAGE = Path(__file__).parents[2] / "recbole_soft"
TOLD_CHARACTERS = 3000


def soak(jobs: int, seed: int, names: Sequence[str], root: Path, watched: Sequence[Path], warm_up: int,
         tell: Callable[[str], None]) -> tuple[History, list[str]]:
    """Runs `jobs` jobs in turn, in an order of the seed's.

    Args:
        names: of kinds; every round has each of them once, the first in the order given.
        root: the run folder, which exists and is empty.
        watched: folders in which no file may appear.
        tell: called with a line of text after every job.

    Returns:
        samples, one after every job; what went wrong.
    """
    chance, mix, kinds = random.Random(seed), Mix(root), all_kinds()
    mix.write_data()
    sampler, history, wrong = Sampler(watched, root), History(jobs, warm_up), []
    turn: list[str] = []
    for number in range(jobs):
        if not turn:
            turn = list(names) if number == 0 else chance.sample(list(names), len(names))
        kind, started = kinds[turn.pop(0)], time.monotonic()
        wrong += _job(kind, mix, number, seed)
        history.note(sampler.sample())
        values = history.last.values
        tell(f"{number + 1:4} {kind.name:12} {time.monotonic() - started:5.1f} s, "
             f"{values['resident memory']:7.1f} MB, {values['Python objects']:9,} objects")
    return history, wrong


def _job(kind: Kind, mix: Mix, number: int, seed: int) -> list[str]:
    """Runs a job, what it prints put aside; returns what was not as it should be, with the end of that."""
    commands, log = mix.commands(kind, number, seed=1000 * seed + number), mix.root / "printed.log"
    with log.open("w", encoding="utf-8") as printed, redirect_stdout(printed), redirect_stderr(printed):
        try:
            mistakes = run_job(kind, commands)
        except Exception:  # noqa: BLE001  (a bug in one job is told; the soak goes on)
            mistakes = [f"{kind.name}: {traceback.format_exc()}"]
    text = log.read_text(encoding="utf-8")
    if not mistakes and kind.says not in text:
        mistakes = [f"{kind.name}: does not say {kind.says!r}"]
    mix.note_end(kind, number)
    return [f"job {number + 1}, {mistake}" for mistake in mistakes] + [text[-TOLD_CHARACTERS:]] * bool(mistakes)


def report(history: History, wrong: Sequence[str], per_round: int) -> tuple[str, bool]:
    """The table and everything that is wrong; second: whether nothing is."""
    rows = judge(history, per_round)
    lines = [table(rows)]
    if any(row.grows for row in rows):
        lines += ["objects that have become more:",
                  *(f"  {line}" for line in grown_types(history.warm, history.last)),
                  "descriptors that were opened:",
                  *(f"  {line}" for line in new_descriptors(history.warm, history.last))]
    changed = changed_settings(history.warm, history.last)
    lines += [f"left outside the run folder: {path}" for path in sorted(history.strays)]
    lines += [f"changed for the whole process: {line}" for line in changed]
    lines += wrong
    is_flat = not (any(row.grows for row in rows) or history.strays or changed or wrong)
    return "\n".join([*lines, "flat" if is_flat else "NOT flat, see above"]) + "\n", is_flat


@contextmanager
def _own_surroundings(keep: str | None) -> Iterator[Path]:
    """A home, a folder for temporary files and a working folder of this process alone, all empty."""
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        root = Path(keep or temporary).resolve()
        for name in ("home", "tmp", "cwd", "run"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "TORCH_HOME", "MPLCONFIGDIR"):
            os.environ.pop(variable, None)
        os.environ |= {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "HF_HUB_OFFLINE": "1"}
        tempfile.tempdir = None  # asked for anew
        before = Path.cwd()
        os.chdir(root / "cwd")
        try:
            yield root
        finally:
            os.chdir(before)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the soak; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="jobs that are not judged")
    parser.add_argument("--kinds", help="of the mix, comma-separated (default: all)")
    parser.add_argument("--place", help="folder to work in, kept (default: a temporary one)")
    parser.add_argument("--save", type=lambda text: Path(text).absolute(), help="csv file that takes all samples")
    options = parser.parse_args(words)
    names = options.kinds.split(",") if options.kinds else list(all_kinds())
    sys.dont_write_bytecode = True  # the package's folder is watched, too
    with _own_surroundings(options.place) as root:
        import torch

        warnings.filterwarnings("ignore")
        torch.set_num_threads(1)
        started = time.monotonic()
        history, wrong = soak(options.jobs, options.seed, names, root / "run", [root, PACKAGE], options.warm_up, _tell)
        if options.save:
            history.save(options.save)
        text, is_flat = report(history, wrong, len(names))
    _tell(f"{text}{options.jobs} jobs, seed {options.seed}, {time.monotonic() - started:.0f} s")
    return 0 if is_flat else 1


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
