"""`make audit` tells a finding, a clean bill, and a database that could not be asked apart."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "audit.py"
CLEAN = {"name": "PyYAML", "version": "6.0.3", "vulns": []}
BAD = {"name": "torch", "version": "2.0", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.6"]}]}
SKIPPED = {"name": "thop", "skip_reason": "Dependency not found on PyPI"}
NAMES = ["pyyaml", "thop", "torch"]


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("packages", "code", "said"), [
    ([CLEAN], 0, "audited 1 of 3 pinned packages: 0 vulnerabilities"),
    ([CLEAN, BAD], 1, "torch 2.0: PYSEC-1 (mended in 2.6)"),
    ([CLEAN, SKIPPED], 0, "not audited, unknown to the database: thop, torch"),
    ([SKIPPED], 0, "NOT AUDITED: the database knows none of the 3 packages"),
])
def test_reports(audit, capsys, packages, code, said):
    assert audit.judge(json.dumps({"dependencies": packages}), "", NAMES) == code
    assert said in capsys.readouterr().out


def test_an_accepted_vulnerability_is_named_with_its_reason(audit, capsys, monkeypatch):
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "we do not use it")
    assert audit.judge(json.dumps({"dependencies": [BAD]}), "", NAMES) == 0
    assert "PYSEC-1 (accepted: we do not use it)" in capsys.readouterr().out


@pytest.mark.parametrize("report", ["", "{}", "[]", "No module named pip_audit"])
def test_no_report_is_no_clean_bill(audit, capsys, report):
    assert audit.judge(report, "No module named pip_audit\n", NAMES) == 0
    assert "NOT AUDITED" in capsys.readouterr().out


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("too slow"),
                                   urllib.error.HTTPError("https://x", 404, "absent", None, None)])
def test_an_unreachable_database_is_said_and_fails_nothing(audit, capsys, monkeypatch, error):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    monkeypatch.setattr(subprocess, "run", None)
    assert audit.main() == 0 and "NOT AUDITED: PyPI's database" in capsys.readouterr().out


def test_what_is_pinned_is_what_is_asked_about(audit):
    text = "# x\ntorch==2.13.0\nhuggingface_hub==2\nrecbole==1.2.1; python_version < '3.12'\nrecbole==1.2.0; x\n"
    assert audit.pinned_names(text) == ["huggingface-hub", "recbole", "torch"]
    assert len(audit.pinned_names(audit.PINNED.read_text(encoding="utf-8"))) > 50


def test_security_rules_are_switched_on_and_every_exception_says_why():
    """Whether the rules are kept, `make lint` checks."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in settings["select"] and {"S", "S1", "S3", "S5", "S6"}.isdisjoint(settings["ignore"])
    for path in (ROOT / "recbole_soft").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if found := re.search(r"# noqa: (S\d+(?:, S\d+)*)(.*)", line):
                above = " ".join(lines[max(0, number - 2): number])
                assert found[2].strip() or " # " in above, f"{path}, line {number + 1}: why no {found[1]}?"
