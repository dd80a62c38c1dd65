"""What a wheel of the package holds."""

from __future__ import annotations

import fnmatch
import sys

import pytest

from tests.architecture.test_layers import PACKAGE

ROOT = PACKAGE.parent


@pytest.fixture
def distribution(monkeypatch):
    """The arguments of `setup`, which setup.py would build from."""
    import setuptools

    found = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    exec(compile((ROOT / "setup.py").read_text(encoding="utf-8"), str(ROOT / "setup.py"), "exec"),
         {"__file__": str(ROOT / "setup.py"), "__name__": "__main__"})
    return found


def test_every_module_is_in_the_wheel(distribution):
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("*.py")}
    assert "recbole_soft.llm" in folders and folders <= set(distribution["packages"])
    assert not [name for name in distribution["packages"] if "__pycache__" in name or name.startswith("tests")]


def test_files_beside_modules_are_in_the_wheel(distribution):
    beside = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert beside
    for path in beside:
        kept = [fnmatch.fnmatch(str(path.relative_to(ROOT)), f"{package.replace('.', '/')}/{pattern}")
                for package, patterns in distribution["package_data"].items() for pattern in patterns]
        assert any(kept), f"{path} would be missing"
