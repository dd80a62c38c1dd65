"""A mode that the user turned on for a reason stays on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_mode_that_the_user_turned_on_stays_on():
    code = ("import torch; torch.autograd.set_detect_anomaly(True); import recbole_soft;"
            "import recbole.model.sequential_recommender; print(torch.is_anomaly_enabled())")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT,
                          check=True)
    assert done.stdout.split()[-1] == "True"
