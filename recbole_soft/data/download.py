"""Downloads a zip of RecBole atomic files and puts them under the name of the data set.

Nothing appears in the target folder before the whole archive has arrived and been checked. Asks no questions.
Does not know which data sets exist nor where their links come from.
"""

from __future__ import annotations

import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from recbole_soft.errors import DataError
from recbole_soft.resuming.locks import one_at_a_time

CHUNK_BYTES = 1 << 20
_SCRATCH = ".download-"
TIMEOUT_SECONDS = 30
ATOMIC_SUFFIXES = (".inter", ".item", ".user", ".kg", ".link", ".net")
CONNECTION_ERRORS = (
    urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError,
)


def download_atomic_files(url: str, target: Path, name: str) -> Path:
    """Downloads `url` and leaves `name.inter`, `name.item`, ... in `target`, which it returns.

    Raises:
        DataError: no connection, a broken or unsafe archive, one without interactions, or no space to write.
    """
    created = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(target / ".download.lock"):
            if (target / f"{name}.inter").is_file():  # by a process that was waited for
                return target
            _download(url, target, name)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror or error})", where=str(target),
                        remedy="free some disk space or give another --data_path") from error
    finally:
        _remove_if_empty(created)
    return target


def _download(url: str, target: Path, name: str) -> None:
    for left in target.glob(f"{_SCRATCH}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    # Inside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=target) as scratch:
        archive = Path(scratch) / "archive.zip"
        _fetch(url, archive, name)
        files = _unzip(archive, Path(scratch), name)
        # The interactions last: where NAME.inter stands, the data set is complete.
        for file in sorted(files, key=lambda path: path.suffix == ".inter"):
            os.replace(file, target / file.name)


def _fetch(url: str, archive: Path, name: str) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
            # disable=None lets tqdm stay silent where the screen is a log file.
            bar = tqdm(total=total, desc=f"downloading {name}", unit="B", unit_scale=True, disable=None)
            with bar, open(archive, "wb") as file:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    bar.update(len(chunk))
    except CONNECTION_ERRORS as error:
        cause = getattr(error, "reason", error)
        if isinstance(error, urllib.error.HTTPError):  # an answer such as 404; it holds a connection
            cause = str(error)
            error.close()
        raise DataError(f"no download from {url} ({cause})", where=url,
                        remedy="check the connection to the internet") from error
    received = archive.stat().st_size
    if total is not None and received != total:
        raise DataError(f"the download from {url} stopped after {received:,} of {total:,} bytes", where=url,
                        remedy="try again")


def _unzip(archive: Path, folder: Path, name: str) -> list[Path]:
    """Unpacks the atomic files of the archive, renamed to the data set, into `folder`."""
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if not member.is_dir()]
            _refuse_unsafe(members)
            atomic = [member for member in members if member.filename.endswith(ATOMIC_SUFFIXES)]
            stem = _stem_of_interactions(atomic)
            files = []
            for member in atomic:
                base = PurePosixPath(member.filename).name
                if base.startswith("._") or not base.startswith(f"{stem}."):
                    continue
                file = folder / f"{name}{base.removeprefix(stem)}"
                with content.open(member) as source, open(file, "xb") as destination:
                    shutil.copyfileobj(source, destination, CHUNK_BYTES)
                files.append(file)
            return files
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, FileExistsError) as error:
        raise DataError(f"the downloaded archive is broken ({error})", where="archive",
                        remedy="try again") from error


def _refuse_unsafe(members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        has_drive = ":" in path.parts[0] if path.parts else False
        if path.is_absolute() or ".." in path.parts or has_drive:
            raise DataError(f"the downloaded archive holds a path that leaves its folder: {member.filename}",
                            where="archive", remedy="do not use this archive; tell who offers it")


def _stem_of_interactions(members: list[zipfile.ZipInfo]) -> str:
    """`Video_Games` of `folder/Video_Games.inter`; the shortest if `Video_Games.train.inter` is beside it."""
    names = [PurePosixPath(member.filename) for member in members]
    stems = [path.stem for path in names if path.suffix == ".inter" and not path.name.startswith("._")]
    if not stems:
        raise DataError("the downloaded archive holds no .inter file", where="archive",
                        remedy="prepare the data set from raw files instead")
    return min(stems, key=len)


def _remove_if_empty(folders: list[Path]) -> None:
    """Takes back the folders of a failed download, innermost first: an empty one looks like a data set."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
