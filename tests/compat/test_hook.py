"""The post-import hook, on a stand-in package named recbole; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PREPARE = """
import importlib.util, sys
from bare_package import import_compat
when_recbole_is_imported = import_compat().when_recbole_is_imported
calls = []
def on_import():
    calls.append(sys.modules["recbole"].finished)
def watchers():
    return [finder for finder in sys.meta_path if type(finder).__name__ == "_RecBoleWatcher"]
"""


@pytest.fixture
def run(tmp_path: Path):
    """Runs code in a new process that can import a small `recbole` from `tmp_path`."""
    package = tmp_path / "recbole"
    (package / "quick_start").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os\nif os.path.exists('broken'): raise OSError\nfinished = True\n"
    )
    (package / "config.py").write_text("import recbole.utils\nclass Config: pass\n")
    (package / "utils.py").write_text("name = 'original'\n")
    (package / "quick_start" / "__init__.py").write_text("def run_recbole(): return 'ran'\n")

    def run_code(code: str) -> None:
        process = subprocess.run(
            [sys.executable, "-c", PREPARE + textwrap.dedent(code)],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{tmp_path}:{HERE}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == 0, process.stderr

    return run_code


@pytest.mark.parametrize(
    "statement",
    [
        "import recbole",
        "import recbole.config",
        "from recbole.config import Config",
        "from recbole.quick_start import run_recbole; assert run_recbole() == 'ran'",
        "import importlib; importlib.import_module('recbole.utils')",
    ],
)
def test_calls_back_once_after_the_package_was_executed(run, statement: str):
    run(f"""
        when_recbole_is_imported(on_import)
        assert calls == []
        {statement}
        assert calls == [True]
        import recbole.config, recbole.quick_start
        assert calls == [True] and watchers() == []
    """)


def test_calls_back_at_once_if_recbole_is_already_imported(run):
    run("""
        import recbole
        when_recbole_is_imported(on_import)
        assert calls == [True] and watchers() == []
    """)


@pytest.mark.parametrize("statement", ["import recbole.utils", "from recbole.quick_start import run_recbole"])
def test_callback_may_import_submodules_of_recbole(run, statement: str):
    run(f"""
        def mend():
            import recbole.config, recbole.quick_start
            import recbole.utils
            recbole.utils.name = "mended"
            calls.append("mended")
        when_recbole_is_imported(mend)
        {statement}
        import recbole.utils
        assert calls == ["mended"] and recbole.utils.name == "mended"
    """)


def test_several_callbacks_run_in_the_order_of_registration(run):
    run("""
        for name in ("first", "second", "third"):
            when_recbole_is_imported(lambda name=name: calls.append(name))
        import recbole
        assert calls == ["first", "second", "third"] and watchers() == []
    """)


def test_asking_whether_recbole_exists_neither_fires_nor_disarms(run):
    run("""
        when_recbole_is_imported(on_import)
        when_recbole_is_imported(on_import)
        assert importlib.util.find_spec("recbole").origin.endswith("__init__.py")
        assert importlib.util.find_spec("recbole_gnn") is None
        assert calls == [] and len(watchers()) == 2
        import recbole
        assert calls == [True, True]
    """)


def test_leaves_the_original_loader_on_the_module(run):
    run("""
        when_recbole_is_imported(on_import)
        import importlib.resources, inspect, recbole
        assert type(recbole.__loader__).__name__ == "SourceFileLoader"
        assert recbole.__spec__.loader is recbole.__loader__
        assert importlib.resources.files("recbole").joinpath("utils.py").is_file()
        assert "finished" in inspect.getsource(recbole)
    """)


def test_stays_armed_when_recbole_itself_fails_to_import(run):
    run("""
        import os, pathlib
        when_recbole_is_imported(on_import)
        pathlib.Path("broken").touch()
        try:
            import recbole
        except OSError:
            pass
        assert calls == [] and len(watchers()) == 1
        os.remove("broken")
        import recbole
        assert calls == [True]
    """)


def test_an_error_in_the_callback_reaches_the_importer_and_leaves_the_callback_armed(run):
    run("""
        attempts = []
        def fail_once():
            attempts.append(1)
            if len(attempts) == 1:
                raise RuntimeError("from the callback")
        when_recbole_is_imported(fail_once)
        try:
            import recbole.config
        except RuntimeError as error:
            assert str(error) == "from the callback"
        else:
            raise SystemExit("the error was swallowed")
        assert "recbole" not in sys.modules and len(watchers()) == 1
        import recbole.config
        assert len(attempts) == 2 and watchers() == []
    """)


def test_absent_recbole_raises_the_usual_error(run):
    run("""
        sys.path[:] = [folder for folder in sys.path if "site-packages" not in folder]
        import shutil; shutil.rmtree("recbole")
        when_recbole_is_imported(on_import)
        try:
            import recbole
        except ModuleNotFoundError as error:
            assert error.name == "recbole"
        else:
            raise SystemExit("imported what is not there")
    """)
