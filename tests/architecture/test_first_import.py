"""Every module can be the first one that a process imports: no circle by way of RecBole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FIRST = ("data.dataset", "models.bigrec", "trainer.llm_trainer")


@pytest.mark.parametrize("module", FIRST)
def test_a_module_may_be_imported_first(module):
    code = (f"import recbole_soft.{module}, recbole.data.dataset as d; "
            "assert d.BIGRec_SOFTDataset.__name__ == 'SoftDataset'; assert not hasattr(d, 'NoSuchDataset')")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
