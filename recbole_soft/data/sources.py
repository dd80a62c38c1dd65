"""Finds the folder of a data set by its name: on disk, in RecBole's package, or behind RecBole's own links.

Imports neither RecBole nor torch, so that `--help` and `--list` stay quick. Does not read the data itself.
"""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path

import yaml

from recbole_soft.artifacts import file_hash
from recbole_soft.config.foreign import check_dataset_name
from recbole_soft.data.download import download_atomic_files
from recbole_soft.errors import DataError, nearest

DATA_VARIABLE = "RECBOLE_SOFT_DATA"
DEFAULT_DATA_PATH = "dataset"
PACKAGED = "ml-100k"

# The paper's data sets and RecBole's names for them (recbole/properties/dataset/url.yaml).
RECBOLE_NAMES = {
    "game": "amazon-video-games-23", "movie": "amazon-movies-tv-23", "kindle": "amazon-kindle-store-23",
}
DESCRIPTIONS = {
    PACKAGED: "MovieLens 100k, small, comes with RecBole",
    "game": "Amazon Reviews 2023, Video_Games (SOFT paper)",
    "movie": "Amazon Reviews 2023, Movies_and_TV (SOFT paper)",
    "kindle": "Amazon Reviews 2023, Kindle_Store (SOFT paper)",
}


logger = logging.getLogger(__name__)


def find_dataset(name: str, data_path: str | None = None) -> Path:
    """The folder of the data set itself, the one that holds `name.inter`; downloads it when it is nowhere.

    Looked for in this order: `data_path/name`, `$RECBOLE_SOFT_DATA/name`, `./dataset/name`, RecBole's
    packaged copy (ml-100k), RecBole's links (into `data_path/name`, or `./dataset/name` without data_path).

    Raises:
        DataError: found nowhere, with what was looked at and what to do; or a name that is a path.
    """
    check_dataset_name(name)
    found = local_dataset(name, data_path)
    if found and data_path and Path(data_path) not in (Path(DEFAULT_DATA_PATH), found.parent):
        logger.warning("%s is not in data_path=%s: %s is used", name, data_path, found)
    return found or _downloaded(name, data_path, _places(name, data_path))


def local_dataset(name: str, data_path: str | None = None) -> Path | None:
    """The folder of a data set that is on this machine, found like `find_dataset`; None if there is none."""
    return next((folder for folder in _places(name, data_path) if (folder / f"{name}.inter").is_file()), None)


def _places(name: str, data_path: str | None) -> list[Path]:
    places = [root / name for root in _roots(data_path)]
    packaged = _packaged_folder() if name == PACKAGED else None
    return [*places, packaged] if packaged else places


def data_files(folder: Path, name: str) -> dict[str, str]:
    """Hash of each file of a data set by its name: equal means the same data, whatever the files' dates say."""
    return {path.name: file_hash(path)[:16] for path in (folder / f"{name}.inter", folder / f"{name}.item")
            if path.is_file()}


def known_datasets(data_path: str | None = None) -> dict[str, str]:
    """One-line description by name: data sets that can be had anywhere, then the folders found on disk."""
    known = dict(DESCRIPTIONS)
    for root in _roots(data_path):
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            if not (folder / f"{folder.name}.inter").is_file():
                continue
            described = known.get(folder.name, "")
            if "found in" not in described:
                known[folder.name] = f"{described}; found in {folder}" if described else f"found in {folder}"
    return known


def download_links() -> dict[str, str]:
    """RecBole's links by data-set name, with our names for the paper's data sets; empty without RecBole."""
    package = _recbole_folder()
    file = package / "properties" / "dataset" / "url.yaml" if package else None
    if file is None or not file.is_file():
        return {}
    links = yaml.safe_load(file.read_text(encoding="utf-8"))
    ours = {name: links[theirs] for name, theirs in RECBOLE_NAMES.items() if theirs in links}
    return {**links, **ours}


def _downloaded(name: str, data_path: str | None, places: list[Path]) -> Path:
    target = Path(data_path or DEFAULT_DATA_PATH).expanduser() / name
    url = download_links().get(name)
    if url is None:
        raise _not_found(name, data_path, places, "RecBole has no link for it")
    logger.warning("data set '%s' is not on this machine; downloading %s into %s", name, url, target)
    try:
        return download_atomic_files(url, target, name)
    except DataError as error:
        raise _not_found(name, data_path, places, error.what) from error


def _not_found(name: str, data_path: str | None, places: list[Path], cause: str) -> DataError:
    known = {*known_datasets(data_path), *download_links()}
    suggestion = "" if name in known else _close_name(name, known)
    looked = "; ".join(f"{folder} ({_state(folder, name)})" for folder in places)
    return DataError(
        f"data set '{name}' was not found, and it could not be downloaded: {cause}",
        where=f"looked in {looked}",
        remedy=(
            f"{suggestion}do one of these:\n"
            f"    1. give the folder that holds {name}/{name}.inter:  --data_path=FOLDER\n"
            f"    2. set it for every run:  export {DATA_VARIABLE}=FOLDER\n"
            "    3. prepare it from raw Amazon files:  python run_recbole_soft.py prepare "
            f"--ratings=RATINGS.csv.gz --metadata=META.jsonl.gz --name={name} --out={DEFAULT_DATA_PATH}"
        ),
    )


def _close_name(name: str, known: set[str]) -> str:
    """`did you mean ...? or` when a known name is close; a list of all 150 names would help nobody."""
    suggestion = nearest(name, known)
    return f"{suggestion} Otherwise " if suggestion.startswith("did you mean") else ""


def _state(folder: Path, name: str) -> str:
    if not folder.parent.is_dir():
        return f"there is no folder {folder.parent}"
    return f"no {name}.inter in it" if folder.is_dir() else "not there"


def data_root(config) -> str | None:
    """The folder of data sets that a run's settings name; None for RecBole's default, which nobody chose."""
    root = str(Path(config["data_path"]).parent)
    return None if root == DEFAULT_DATA_PATH and "data_path" not in config.external_config_dict else root


def _roots(data_path: str | None) -> list[Path]:
    """Folders that may hold data sets, in order of precedence, each once."""
    given = [data_path, os.environ.get(DATA_VARIABLE), DEFAULT_DATA_PATH]
    return list(dict.fromkeys(Path(root).expanduser() for root in given if root))


def _recbole_folder() -> Path | None:
    """Where RecBole is installed, without importing it (that takes seconds)."""
    spec = find_spec("recbole")
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) if locations else None


def _packaged_folder() -> Path | None:
    package = _recbole_folder()
    return package / "dataset_example" / PACKAGED if package else None
