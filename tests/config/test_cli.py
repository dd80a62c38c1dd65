"""The command line: words, help, exit codes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from recbole_soft import cli, cli_help
from recbole_soft.config.schema import SETTINGS
from recbole_soft.config.sources import split_config_files
from recbole_soft.config.words import count, is_yes
from recbole_soft.errors import DataError, SettingError
from recbole_soft.registry import MODELS, STRATEGIES

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "recbole", "transformers", "peft", "pandas", "numpy", "ray")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Stands in for recbole_soft.run and collects what it was asked to do."""
    calls: list[dict] = []
    module = types.ModuleType("recbole_soft.run")
    module.run_recbole_soft = lambda **arguments: calls.append(arguments)
    monkeypatch.setitem(sys.modules, "recbole_soft.run", module)
    return calls


def test_options_of_subcommands_are_read_as_settings_are():
    options = {"details": "TRUE", "dry_run": "false", "same_code": "", "top": "3", "zero": "0"}
    assert [is_yes(options, key) for key in ("details", "dry_run", "same_code")] == [True, False, False]
    assert not is_yes(options, "missing") and count(options, "top") == 3 and count(options, "zero", low=0) == 0
    with pytest.raises(SettingError, match=r"(?s)top = 3: must be True or False.*--top=True"):
        is_yes(options, "top")
    with pytest.raises(SettingError, match=r"(?s)zero = 0: must be an integer from 1 up.*--zero=20"):
        count(options, "zero")



def test_words_become_settings():
    assert cli.parse_words(["--a=1", "--eval_args={'x': 'a=b'}", "--empty="]) == {
        "a": "1", "eval_args": "{'x': 'a=b'}", "empty": ""}


@pytest.mark.parametrize(("words", "remedy"), [
    (["--epochs", "5"], "--epochs=5"), (["epochs=5"], "--epochs=5"), (["-epochs=5"], "--epochs=5"),
    (["\u2014epochs=5"], "--epochs=5"), (["--fast_path"], "--fast_path=True"),
    (["--fast_path", "--epochs=5"], "--fast_path=True"), (["SASRec"], "--SASRec=VALUE"), (["--=5"], "for example"),
    (["--"], "for example"),
])
def test_other_forms_are_answered_with_the_right_one(words, remedy):
    with pytest.raises(SettingError) as refusal:
        cli.parse_words(words)
    assert repr(words[0]) in str(refusal.value) and remedy in str(refusal.value)


def test_key_given_twice():
    with pytest.raises(SettingError, match="--a is given twice: '1' and '2'"):
        cli.parse_words(["--a=1", "--a=2"])


@pytest.mark.usefixtures("stub_components", "properties")
def test_run_gets_what_was_asked(runs, tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("epochs: 2\n")
    second.write_text("dataset: toy\n")
    words = ["--model=StubRec_SOFT", f"--config_files={first},{second}", "--alpha=2"]
    assert cli.main(words) == 0
    assert runs == [{"model": "StubRec_SOFT", "dataset": "toy", "config_file_list": [str(first), str(second)],
                     "command_line": {"alpha": "2"}}]


@pytest.mark.usefixtures("stub_components", "properties")
@pytest.mark.parametrize(("words", "expected"), [
    (["--dataset=toy"], "--model is missing"), (["--modle=Pop", "--dataset=toy"], "remedy: --model=Pop"),
    (["--model=StubRec_SOFT"], "--dataset is missing"),
    (["--model=StubRec_SOFT", "--dataset=toy", "--num_beams=0"], "num_beams = 0"),
    (["--model=StubRec", "--dataset=toy"], "needs a strategy"),
    (["--model=StubRec_SOFT", "--dataset=toy", "--config_files=no.yaml"], "no.yaml"),
])
def test_mistakes_are_one_message_and_code_2(runs, capsys, words, expected):
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and expected in captured.err and captured.out == ""
    assert "Traceback" not in captured.err and runs == []


@pytest.mark.usefixtures("stub_components", "properties")
@pytest.mark.parametrize(("problem", "code", "expected"), [
    (DataError("no titles", "toy.item", "add them"), 2, "error: no titles\n  where:  toy.item\n  remedy: add them\n"),
    (KeyboardInterrupt(), 130, "\ninterrupted by the keyboard\n"),
    (OSError(errno.ENOSPC, "No space left on device", "/x"), 2,
     "error: No space left on device\n  where:  /x\n"),
    (OSError(errno.EROFS, "Read-only file system"), 2, "error: Read-only file system\n  remedy: choose a folder"),
])
def test_what_can_go_wrong_in_a_run(monkeypatch, capsys, runs, problem, code, expected):
    def fail(**_):
        raise problem

    monkeypatch.setattr(sys.modules["recbole_soft.run"], "run_recbole_soft", fail)
    assert cli.main(["--model=StubRec_SOFT", "--dataset=toy"]) == code
    assert capsys.readouterr().err.startswith(expected)


@pytest.mark.usefixtures("stub_components", "properties")
@pytest.mark.parametrize("bug", [ValueError("ours"), OSError(errno.EIO, "broken disk")])
def test_bugs_keep_their_traceback(monkeypatch, runs, bug):
    def fail(**_):
        raise bug

    monkeypatch.setattr(sys.modules["recbole_soft.run"], "run_recbole_soft", fail)
    with pytest.raises(type(bug)):
        cli.main(["--model=StubRec_SOFT", "--dataset=toy"])


def test_prepare_is_handed_on(monkeypatch):
    module = types.ModuleType("recbole_soft.data.prepare_cli")
    module.main = lambda words: len(words)
    monkeypatch.setitem(sys.modules, "recbole_soft.data.prepare_cli", module)
    assert cli.main(["prepare", "--help", "x"]) == 2


def test_config_files(tmp_path):
    odd = tmp_path / "my settings.yaml"
    odd.touch()
    assert split_config_files("a.yaml, b.yaml") == split_config_files("a.yaml b.yaml") == ["a.yaml", "b.yaml"]
    assert split_config_files(str(odd)) == [str(odd)] and split_config_files("") == []


@pytest.mark.parametrize("name", sorted(cli.SUBCOMMANDS))
def test_every_subcommand_says_what_it_takes(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert "--" in capsys.readouterr().out


def test_help_names_everything_in_100_columns():
    text = cli_help.help_text()
    for name in [*MODELS, *STRATEGIES, *(setting.name for setting in SETTINGS), "SASRec", "Pop", "epochs",
                 *cli_help.known_datasets()]:
        assert name in text
    assert all(setting.help.split()[0] in text for setting in SETTINGS)
    assert max(map(len, text.splitlines())) <= cli_help.WIDTH


@pytest.mark.usefixtures("stub_components", "properties")
def test_help_shows_settings_of_components_under_their_owner():
    text = cli_help.help_text()
    assert "Only with schedule exponential" in text
    assert text.index("Only with model StubRec, StubRec_X\n") < text.index("how many guesses [>= 1]")


@pytest.mark.parametrize("words", ["['--help']", "['-h']", "['--version']", "['--epochs', '5']",
                                   "['--model=SASRec', '--dataset=game', '--epoch=0']"])
def test_answers_import_nothing_heavy(words):
    program = (f"import sys\nfrom recbole_soft.cli import main\ncode = main({words})\n"
               f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
               "assert not loaded, loaded\nsys.exit(code)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if "=" in words or "5" in words else 0), done.stderr
    assert (done.stdout == "") == (done.returncode == 2)


def test_help_answers_in_under_a_second():
    def measured() -> float:
        """Processor time, as the wall clock also measures what else the machine is doing."""
        before = os.times()
        subprocess.run([sys.executable, "run_recbole_soft.py", "--help"], cwd=ROOT, capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(measured() for _ in range(3)) < 1.0


def test_reader_that_leaves_early_causes_no_complaint():
    process = subprocess.Popen([sys.executable, "run_recbole_soft.py", "--help"], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0
