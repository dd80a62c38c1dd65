"""Importing RecBole must not make every backward pass of the process slow."""

from __future__ import annotations

import subprocess
import sys

PROBE = "import torch, recbole.model.sequential_recommender; print(torch.is_anomaly_enabled())"


def outcome(code: str) -> str:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True,
                          check=True).stdout.split()[-1]


def test_recbole_turns_anomaly_detection_on_and_we_turn_it_off():
    stub = "import sys, types; m = types.ModuleType('kmeans_pytorch'); m.kmeans = None; sys.modules[m.__name__] = m;"
    assert outcome(stub + PROBE) == "True", "the shim anomaly_mode can go"
    assert outcome("import recbole_soft;" + PROBE) == "False"


def test_a_mode_that_the_user_turned_on_stays_on():
    code = "import torch; torch.autograd.set_detect_anomaly(True); import recbole_soft;" + PROBE
    assert outcome(code) == "True"
