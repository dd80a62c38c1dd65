"""Runs in one process of a group, for the tests: `several_runs.py JSON`, under torchrun.

The JSON file holds a list of runs, each the words of a command line without what `--key=value` needs. `fail` in a run
names what happens to the last process in its third optimiser step: `exception`, or `kill`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

import torch

from recbole_soft import cli
from recbole_soft.run_log import quiet_libraries
from recbole_soft.trainer import llm_trainer


def fail_in_third_step(how: str) -> None:
    """Breaks the last process of the group."""
    original, calls = llm_trainer.LLMTrainer._step, []

    def step(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3 and os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the third step is broken")
        return original(self, *arguments)

    llm_trainer.LLMTrainer._step = step


if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet_libraries()
    for settings in json.loads(Path(sys.argv[1]).read_text()):
        if "fail" in settings:
            fail_in_third_step(settings.pop("fail"))
        code = cli.main([f"--{key}={value}" for key, value in settings.items()])
        logging.shutdown()
        if code:
            sys.exit(code)
