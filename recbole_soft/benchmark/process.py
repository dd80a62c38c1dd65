"""Runs one cell in a process of its own, and sees that it does not outlive the benchmark.

A process per cell costs some seconds of imports. It buys that a crash or a full memory ends one cell and not the
benchmark, that no cell inherits anything from another (random state, threads, memory), and that the peak memory in a
record is that run's own.

As a program (`python -m recbole_soft.benchmark.process --model=...`) this is the cell's side: the command line, and a
thread that ends the process when its standard input closes. That happens when the benchmark ends, however it ends:
after `kill -9` no orphan goes on writing into the folder that the next benchmark is about to use.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from recbole_soft.errors import EXIT_CODE

POLL_SECONDS = 0.5
_CHECKOUT = Path(__file__).resolve().parents[2]
_TAIL_BYTES = 20_000


def run_cell(words: Sequence[str], log: Path, environment: Mapping[str, str], tick: Callable[[], None]) -> str | None:
    """Runs a command of ours to its end.

    Args:
        words: of the command line.
        log: file that takes everything it prints.
        environment: variables of the process.
        tick: called while it runs, about twice a second.

    Returns:
        None when it went well, else why not.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # The package that runs now, also where it is a checkout that is not installed.
    paths = [str(_CHECKOUT), *filter(None, [environment.get("PYTHONPATH")])]
    variables = {**environment, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen([sys.executable, "-m", "recbole_soft.benchmark.process", *words], stdout=output,
                                   stderr=subprocess.STDOUT, stdin=subprocess.PIPE, env=variables)
        try:
            while process.poll() is None:
                tick()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
        finally:
            process.stdin.close()
            process.wait()
    return None if process.returncode == 0 else failure(process.returncode, log)


def failure(code: int, log: Path) -> str:
    """Why a process failed, from its exit code and the end of what it printed."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"killed by {name}{hint} ({log})"
    lines = last_lines(log)
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if code == EXIT_CODE and starts:
        return "\n".join(lines[starts[-1]:]).removeprefix("error: ")
    return f"{lines[-1] if lines else f'exit code {code}'} ({log})"


def last_lines(log: Path) -> list[str]:
    """The last lines of a file that are not empty."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return []


def _end_with_the_benchmark() -> None:
    # Not through sys.stdin: Python would stumble over its locked buffer on an ordinary exit.
    while os.read(0, 1):
        pass
    os._exit(os.EX_TEMPFAIL)


def main() -> int:
    """The cell's side: our command line, ended early when standard input closes."""
    from recbole_soft.cli import main as command

    threading.Thread(target=_end_with_the_benchmark, daemon=True).start()
    return command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
