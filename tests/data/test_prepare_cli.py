"""The `prepare` subcommand."""

from __future__ import annotations

import pytest

from recbole_soft.data.prepare_cli import main
from recbole_soft.errors import SettingError
from tests.data.raw_files import write_dense_pair


def test_the_command_prepares_and_prints_a_table(tmp_path, capsys):
    ratings, metadata = write_dense_pair(tmp_path)
    paths = [f"--ratings={ratings}", f"--metadata={metadata}", f"--out={tmp_path}"]
    assert main([*paths, "--name=toy", "--k-core=10"]) == 0
    printed = capsys.readouterr().out
    assert "written (10-core)" in printed and "10 users / 10 items / 100 interactions" in printed
    assert (tmp_path / "toy" / "toy.inter").is_file()
    assert main(["--help"]) == 0 and "--metadata=FILE" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--rating=x"], "did you mean ratings"),
    (["--ratings=x", "--name=game"], "--metadata is missing"),
    (["--ratings"], "not of the form --key=value"),
    (["ratings=x"], "not of the form --key=value"),
    (["--ratings=x", "--metadata=y", "--name=game", "--k_core=ten"], "no whole number"),
])
def test_mistakes_on_the_command_line_name_the_remedy(arguments, message):
    with pytest.raises(SettingError, match=message):
        main(arguments)
