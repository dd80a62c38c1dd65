"""Prepares RecBole's atomic files from raw Amazon ratings and item metadata (editions 2014, 2018 and 2023).

Follows the data protocol of SOFT (arXiv 2505.20771, section on data sets): items without a title and exact
duplicate rows are dropped, ratings are not thresholded, file order is kept. The k-core, the windows and the
split are left to the loading stage, so that they stay settings.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from recbole_soft.data.core_sieve import CoreSieve, make_sieve, nothing_in_core
from recbole_soft.data.manifest import PAPER_K, PUBLISHED_SIZES, DataSize, Manifest, size_warning
from recbole_soft.data.prep_engine import PrepEngine, make_engine
from recbole_soft.data.raw_files import RawFile
from recbole_soft.data.raw_metadata import Metadata, read_metadata
from recbole_soft.data.raw_ratings import Ratings, read_ratings
from recbole_soft.data.repeats import repeated_rows
from recbole_soft.errors import DataError, SettingError
from recbole_soft.resuming.locks import only_process_in

UNKNOWN_SHARE_TO_WARN = 0.05
INTERACTION_HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM_HEADER = "item_id:token\ttitle:token\tcategory:token\n"

logger = logging.getLogger(__name__)


def prepare_amazon(
    ratings: Path, metadata: Path, out_dir: Path, name: str,
    *, k_core: int | None = None, progress: bool = True, engine: str = "auto",
) -> Manifest:
    """Writes `name.inter`, `name.item` and `name.manifest.json` into `out_dir/name`; logs warnings.

    Args:
        ratings: comma-separated ratings-only file, plain or gzip, with or without header, in s or ms.
        metadata: item metadata, plain or gzip, JSON lines (2018, 2023) or Python literals (2014).
        out_dir: the `data_path` of RecBole; the data set gets a folder of its own in it.
        name: name of the data set; `game`, `movie` and `kindle` are compared with the paper's sizes.
        k_core: write only the iterative k-core; None writes all (RecBole's interval settings apply it later).
        progress: show a bar per file on a terminal.
        engine: `pandas`, `polars` (the extra `prep`), or `auto` for polars where it is installed; same files.

    Raises:
        DataError: an input that is missing or holds nothing usable, or an output that cannot be written.
        SettingError: a name that is no folder name, a `k_core` under 1, or an engine that is not there.
    """
    _check_settings(name, k_core)
    tables = make_engine(engine)
    folder = _output_folder(Path(out_dir), name)
    ratings_file, metadata_file = RawFile(ratings, "ratings file"), RawFile(metadata, "metadata file")
    sieve = make_sieve(ratings_file, k_core, PAPER_K, progress)
    items = read_metadata(metadata_file, progress, sieve.may_be_items if sieve else None)
    table = read_ratings(ratings_file, items, tables, progress, sieve)

    dropped = {
        "interactions with items without title": table.untitled_items,
        "interactions with items not in the metadata": table.unknown_items,
    }
    dropped |= _left_out_by_counts(sieve, table, items)
    repeated = repeated_rows(table.users, table.items, table.ratings, table.timestamps)
    table = _keep(table, ~repeated, "exact duplicate interactions", dropped)
    in_ten_core = k_core_mask(table.users, table.items, PAPER_K)
    ten_core = _size(table.users[in_ten_core], table.items[in_ten_core])
    if k_core is not None:
        in_core = k_core_mask(table.users, table.items, k_core)
        table = _keep(table, in_core, f"interactions outside the {k_core}-core", dropped)
        if len(table.users) == 0:
            raise nothing_in_core(k_core, str(ratings))
    written = _size(table.users, table.items)
    dropped["items without title"] = len(items.untitled)
    dropped["items without interaction"] = len(items.titles) - written.items
    dropped["repeated metadata records"] = items.repeated

    manifest = Manifest(
        name=name, created=datetime.now(UTC).isoformat(timespec="seconds"),
        inputs={"ratings": ratings_file.describe(), "metadata": metadata_file.describe()},
        formats={"metadata_edition": items.edition, "ratings_columns": table.order,
                 "ratings_header": table.has_header, "timestamp_unit": table.unit},
        dropped=dropped, written=written, k_core=k_core,
        engine=tables.name, ten_core=ten_core, published=PUBLISHED_SIZES.get(name),
        warnings=_warnings(name, ratings_file, metadata_file, table, ten_core),
    )
    _write(folder, name, table, items, manifest, tables)
    for warning in manifest.warnings:
        logger.warning("%s", warning)
    return manifest


def k_core_mask(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """[rows] bool: the largest set of rows in which every user and every item has at least k rows.

    Args:
        users, items: [rows] numbers from 0.
    """
    alive = np.arange(len(users))
    while len(alive):
        alive_users, alive_items = users[alive], items[alive]
        enough = (np.bincount(alive_users)[alive_users] >= k) & (np.bincount(alive_items)[alive_items] >= k)
        if enough.all():
            break
        alive = alive[enough]
    mask = np.zeros(len(users), dtype=bool)
    mask[alive] = True
    return mask


def _check_settings(name: str, k_core: int | None) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise SettingError(f"'{name}' cannot be the name of a data set", where="name",
                           remedy="use letters, digits, '-', '_' and '.', such as game")
    if k_core is not None and k_core < 1:
        raise SettingError(f"k_core is {k_core}", where="k_core", remedy="give 1 or more, or leave it out")


def _output_folder(out_dir: Path, name: str) -> Path:
    """Made before anything is read: hours of reading should not end at a folder that cannot be written."""
    folder = out_dir / name
    if (folder / f"{name}.inter").exists() and not (folder / f"{name}.manifest.json").exists():
        raise DataError("the data set exists already and was not made by this command", where=str(folder),
                        remedy="choose another --name or --out, or move the old files away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _replacing(folder / f"{name}.probe", keep=False):
            pass
    except OSError as error:
        raise DataError(f"the output folder cannot be written: {error.strerror}", where=str(folder),
                        remedy="give another folder with --out") from error
    return folder


def _left_out_by_counts(sieve: CoreSieve | None, table: Ratings, items: Metadata) -> dict[str, int]:
    if sieve is None:
        return {}
    return {f"lines outside the {sieve.k}-core, by counts before all else": table.outside_core,
            "metadata records of items outside of it": items.outside_core}


def _keep(table: Ratings, mask: np.ndarray, reason: str, dropped: dict[str, int]) -> Ratings:
    """The rows of the mask; the number of others goes into `dropped`."""
    dropped[reason] = int((~mask).sum())
    return table.keep(mask)


def _size(users: np.ndarray, items: np.ndarray) -> DataSize:
    # Numbers from 0 are counted faster than they are sorted or hashed.
    n_users, n_items = (int(np.count_nonzero(np.bincount(numbers))) for numbers in (users, items))
    return DataSize(n_users, n_items, len(users))


def _warnings(
    name: str, ratings_file: RawFile, metadata_file: RawFile, table: Ratings, ten_core: DataSize
) -> list[str]:
    found = [f"{file.path}: {file.damage}" for file in (ratings_file, metadata_file) if file.damage]
    usable = ratings_file.tally.read - ratings_file.tally.bad - table.has_header - table.outside_core
    if table.unknown_items > UNKNOWN_SHARE_TO_WARN * usable:
        found.append(f"{table.unknown_items:,} of {usable:,} interactions are with items not in the "
                     "metadata: is it of the same category and edition, and complete?")
    if table.in_other_unit:
        found.append(f"{table.in_other_unit:,} timestamps do not look like the others ({table.unit}): "
                     "their order in time will be wrong")
    if ten_core.interactions == 0:
        found.append("nothing is left after the 10-core; set lower user_inter_num_interval and "
                     "item_inter_num_interval when you train on this data set")
    mismatch = size_warning(name, ten_core)
    return [*found, mismatch] if mismatch else found


def _write(
    folder: Path, name: str, table: Ratings, items: Metadata, manifest: Manifest, engine: PrepEngine
) -> None:
    try:
        # The interactions come last: where NAME.inter stands, the data set is complete.
        with (
            only_process_in(folder, "give another folder with --out"),
            _replacing(folder / f"{name}.inter") as inter_file,
            _replacing(folder / f"{name}.manifest.json") as manifest_file,
            _replacing(folder / f"{name}.item") as item_file,
        ):
            _write_items(item_file, table, items)
            manifest_file.write(manifest.to_json())
            _write_interactions(inter_file, table, items, engine)
    except OSError as error:
        raise DataError(f"the data set cannot be written: {error.strerror}", where=str(folder),
                        remedy="free some disk space or give another folder with --out") from error


def _write_items(file: TextIO, table: Ratings, items: Metadata) -> None:
    rated = np.zeros(len(items.titles), dtype=bool)
    rated[table.items] = True
    file.write(ITEM_HEADER)
    for item_id, row in items.row_of.items():
        if rated[row]:
            file.write(f"{item_id}\t{items.titles[row]}\t{items.categories[row]}\n")


def _write_interactions(file: TextIO, table: Ratings, items: Metadata, engine: PrepEngine) -> None:
    file.write(INTERACTION_HEADER)
    engine.write(file, table, list(items.row_of))


@contextmanager
def _replacing(path: Path, keep: bool = True) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a killed process left is written over
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
        if keep:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
