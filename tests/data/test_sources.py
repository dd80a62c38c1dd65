"""Where a data set is looked for, how it is downloaded, and what a user is told when it is nowhere."""

from __future__ import annotations

import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from recbole_soft.data import sources
from recbole_soft.data.sources import data_root, download_links, find_dataset, known_datasets, local_dataset
from recbole_soft.errors import DataError

INTER = "user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """An empty working folder, no variable, no links: a test that wants one of them makes it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RECBOLE_SOFT_DATA", raising=False)
    monkeypatch.setattr(sources, "download_links", dict)
    return folder


def put_dataset(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / f"{name}.inter").write_text(INTER)
    return folder


def zipped(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def serve(tmp_path):
    """Serves a folder, or a handler of one's own, on a local port; gives the address."""
    servers = []

    def start(handler=None) -> str:
        handler = handler or partial(QuietFiles, directory=str(tmp_path))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class BreaksOff(BaseHTTPRequestHandler):
    """Promises 1,000 bytes and sends ten."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"0123456789")

    def log_message(self, *_):
        pass


def test_places_are_searched_in_order(tmp_path, monkeypatch):
    in_working_folder = put_dataset(Path("dataset"), "toy")
    assert find_dataset("toy") == in_working_folder
    assert find_dataset("toy", str(tmp_path / "elsewhere")) == in_working_folder
    in_variable = put_dataset(tmp_path / "variable", "toy")
    monkeypatch.setenv("RECBOLE_SOFT_DATA", str(tmp_path / "variable"))
    assert find_dataset("toy") == in_variable
    given = put_dataset(tmp_path / "given", "toy")
    assert find_dataset("toy", str(tmp_path / "given")) == given
    (given / "toy.inter").unlink()
    assert find_dataset("toy", str(tmp_path / "given")) == in_variable


def test_home_folders_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = put_dataset(tmp_path / "data", "toy")
    assert find_dataset("toy", "~/data") == folder


def test_ml_100k_comes_with_recbole_unless_there_is_a_copy():
    packaged = find_dataset("ml-100k")
    assert packaged.parent.name == "dataset_example" and (packaged / "ml-100k.item").is_file()
    copy = put_dataset(Path("dataset"), "ml-100k")
    assert find_dataset("ml-100k") == copy


@pytest.mark.parametrize("prefix", ["", "Amazon_Video_Games/"])
@pytest.mark.parametrize("data_path", [None, "data/here"])
def test_a_download_is_unpacked_under_the_name_of_the_data_set(
    tmp_path, monkeypatch, serve, empty_machine, prefix, data_path, caplog
):
    zipped(tmp_path / "Amazon_Video_Games.zip", {
        f"{prefix}Amazon_Video_Games.inter": INTER, f"{prefix}Amazon_Video_Games.item": "item_id:token\n2\n",
        f"{prefix}Amazon_Video_Games.train.inter": "part", f"{prefix}README.md": "not wanted",
        "__MACOSX/._Amazon_Video_Games.inter": "rubbish",
    })
    monkeypatch.setattr(sources, "download_links", lambda: {"game": f"{serve()}/Amazon_Video_Games.zip"})
    folder = find_dataset("game", data_path)
    assert folder == Path(data_path or "dataset") / "game"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "game.inter": INTER, "game.item": "item_id:token\n2\n", "game.train.inter": "part",
    }
    assert "downloading http://127.0.0.1" in caplog.text
    monkeypatch.setattr(sources, "download_links", dict)
    assert find_dataset("game", data_path) == folder


@pytest.mark.parametrize(
    "unsafe", ["../evil.inter", "/tmp/evil.inter", "..\\evil.inter", "C:\\evil.inter", "a/../../b"]
)
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, monkeypatch, serve, empty_machine, unsafe):
    zipped(tmp_path / "toy.zip", {"toy.inter": INTER, unsafe: "evil"})
    monkeypatch.setattr(sources, "download_links", lambda: {"toy": f"{serve()}/toy.zip"})
    with pytest.raises(DataError, match="leaves its folder"):
        find_dataset("toy")
    assert list(empty_machine.iterdir()) == []
    assert not list(tmp_path.rglob("evil*"))


def broken_archives(tmp_path: Path, serve) -> dict[str, str]:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 this is no archive")
    damaged = zipped(tmp_path / "damaged.zip", {"toy.inter": INTER * 100})
    damaged.write_bytes(damaged.read_bytes().replace(b"user_id", b"USER_ID", 1))
    zipped(tmp_path / "empty.zip", {"readme.txt": ""})
    files = serve()
    return {
        "the downloaded archive is broken": f"{files}/broken.zip",
        "archive is broken .*CRC": f"{files}/damaged.zip",
        "holds no .inter file": f"{files}/empty.zip",
        "stopped after 10 of 1,000 bytes|IncompleteRead": f"{serve(BreaksOff)}/toy.zip",
        "HTTP Error 404": f"{files}/nothing.zip",
        "refused": "http://127.0.0.1:1/toy.zip",
        "has to start with https": "nonsense",
    }


def test_failed_downloads_say_why_and_leave_nothing(tmp_path, monkeypatch, serve, empty_machine):
    for message, url in broken_archives(tmp_path, serve).items():
        monkeypatch.setattr(sources, "download_links", lambda url=url: {"toy": url})
        with pytest.raises(DataError, match=message) as caught:
            find_dataset("toy")
        assert "--data_path=FOLDER" in caught.value.remedy
        assert list(empty_machine.iterdir()) == []


def test_a_failed_download_keeps_what_was_there(monkeypatch):
    Path("dataset/toy").mkdir(parents=True)
    Path("dataset/toy/notes.txt").write_text("mine")
    monkeypatch.setattr(sources, "download_links", lambda: {"toy": "http://127.0.0.1:1/toy.zip"})
    with pytest.raises(DataError, match=r"dataset/toy \(no toy.inter in it\)"):
        find_dataset("toy")
    assert [path.name for path in Path("dataset/toy").iterdir()] == ["notes.txt"]


def test_a_data_set_found_nowhere_names_the_places_and_three_ways_out(tmp_path):
    with pytest.raises(DataError) as caught:
        find_dataset("game", str(tmp_path / "typo"))
    error = caught.value
    assert f"{tmp_path}/typo/game (there is no folder {tmp_path}/typo)" in error.where
    assert "--data_path=FOLDER" in error.remedy
    assert "export RECBOLE_SOFT_DATA=FOLDER" in error.remedy
    assert "python run_recbole_soft.py prepare --ratings=RATINGS.csv.gz" in error.remedy
    assert "--metadata=META.jsonl.gz --name=game --out=dataset" in error.remedy
    assert "did you mean" not in error.remedy


@pytest.mark.parametrize(
    ("typo", "meant"), [("gmae", "game"), ("Kindel", "kindle"), ("ml100k", "ml-100k"), ("mine1", "mine")]
)
def test_an_unknown_name_brings_up_the_nearest(tmp_path, typo, meant):
    put_dataset(tmp_path, "mine")
    with pytest.raises(DataError) as caught:
        find_dataset(typo, str(tmp_path))
    assert f"did you mean {meant}" in caught.value.remedy


def test_a_name_like_no_other_lists_nothing():
    with pytest.raises(DataError) as caught:
        find_dataset("qqqqqqqq")
    assert caught.value.remedy.startswith("do one of these")


@pytest.mark.parametrize(("name", "remedy"), [
    ("/data/game", "--data_path=/data --dataset=game"), ("../game", "--data_path=.. --dataset=game"),
    ("", "such as game"), ("..", "such as game"),
])
def test_a_path_is_not_a_name(name, remedy):
    with pytest.raises(DataError, match="is not the name of a data set") as caught:
        find_dataset(name)
    assert remedy in caught.value.remedy


def test_links_are_recboles_own_and_ours_point_to_the_2023_files(monkeypatch):
    monkeypatch.undo()
    links = download_links()
    assert len(links) > 100
    for name, file in {"game": "Video_Games", "movie": "Movies_and_TV", "kindle": "Kindle_Store"}.items():
        assert links[name].endswith(f"/Amazon2023/Amazon_{file}.zip")
    assert links["amazon-video-games-23"] == links["game"]


def test_known_data_sets_are_described_and_folders_found(tmp_path, monkeypatch):
    put_dataset(tmp_path / "variable", "mine")
    put_dataset(Path("dataset"), "game")
    (tmp_path / "variable" / "not_a_dataset").mkdir()
    monkeypatch.setenv("RECBOLE_SOFT_DATA", str(tmp_path / "variable"))
    known = known_datasets()
    assert list(known)[:4] == ["ml-100k", "game", "movie", "kindle"]
    assert known["mine"] == f"found in {tmp_path}/variable/mine"
    assert known["game"] == "Amazon Reviews 2023, Video_Games (SOFT paper); found in dataset/game"
    assert "not_a_dataset" not in known
    assert all("\n" not in text for text in known.values())


def test_looking_for_data_imports_neither_torch_nor_recbole():
    script = (
        "import sys; from recbole_soft.data.sources import find_dataset; find_dataset('ml-100k'); "
        "print([name for name in ('torch', 'recbole') if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"


def test_a_default_that_nobody_chose_gives_way_to_the_variable(tmp_path, monkeypatch):
    """RecBole's `data_path: dataset` is no word of the user's; the benchmark and its runs must find the same files."""
    for root in ("variable", "dataset"):
        (tmp_path / root / "mine").mkdir(parents=True)
        (tmp_path / root / "mine" / "mine.inter").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBOLE_SOFT_DATA", str(tmp_path / "variable"))

    class Settings(dict):
        external_config_dict: ClassVar[dict] = {}

    default, chosen = Settings(data_path="dataset/mine"), Settings(data_path="dataset/mine")
    chosen.external_config_dict = {"data_path": "dataset"}
    assert find_dataset("mine", data_root(default)) == local_dataset("mine") == tmp_path / "variable" / "mine"
    assert find_dataset("mine", data_root(chosen)) == Path("dataset/mine")
