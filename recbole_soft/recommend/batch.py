"""Many histories from a file, answered in batches and written as they come.

A line that cannot be used is reported with its number, stands in the output with its error, and does not stop the
rest. Input and output are csv or JSONL by their suffix. The output appears under its name when it is complete; until
then it grows in a file beside it whose name ends in `.part`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from recbole_soft.artifacts import disk_errors, make_folder
from recbole_soft.errors import DataError, SettingError, UserError
from recbole_soft.recommend.formats import ROW_COLUMNS, as_dictionary, as_rows
from recbole_soft.recommend.histories import History, split_words
from recbole_soft.recommend.recommender import Recommendations, Recommender

FORMATS = (".csv", ".jsonl")
FIELDS = ("history", "item_ids", "user_id")
_REMEDY = "columns are one of history (titles: A|B), item_ids (1|2) or user_id, and optionally id"


@dataclass(frozen=True)
class Line:
    """A line of the input.

    Attributes:
        number: in the file, from 1; of a csv row of several lines, the last one.
        id: the line's own name, its number if it has none.
        request: what `Recommender.history` takes; empty if there is an error.
        error: why it cannot be read.
    """

    number: int
    id: str
    request: dict[str, Any]
    error: str = ""


@dataclass(frozen=True)
class BatchResult:
    """Attributes:
    answered: lines with recommendations.
    refused: lines with an error.
    """

    answered: int
    refused: int


def recommend_file(recommender: Recommender, source: Path, out: Path, top: int = 10, stage: str | None = None,
                   batch_size: int = 64, report: Callable[[int, str], None] | None = None,
                   progress: Callable[[int], None] | None = None) -> BatchResult:
    """Answers every line of a file.

    Args:
        source: csv or JSONL, see `read_lines`.
        out: csv or JSONL; a file of that name is replaced.
        top, stage: see `Recommender.recommend`.
        batch_size: histories that are answered together.
        report: gets number and error of every line that is refused.
        progress: gets the number of lines that are done since the last call.

    Raises:
        UserError: a file has another suffix, cannot be read or written, or no line has a known column.
    """
    check_files(source, out)
    make_folder(out.parent, "output")
    part = out.with_name(out.name + ".part")
    answered = refused = 0
    with disk_errors(part), part.open("w", encoding="utf-8", newline="") as file:
        write = _writer(file, out.suffix)
        lines = read_lines(source)
        while batch := list(islice(lines, batch_size)):
            for line, answer in _answers(recommender, batch, top, stage):
                if isinstance(answer, str):
                    refused += 1
                    if report is not None:
                        report(line.number, answer)
                else:
                    answered += 1
                write(line, answer)
            file.flush()
            recommender.forget()
            if progress is not None:
                progress(len(batch))
    if not answered + refused:
        part.unlink()
        raise DataError("the file has no line to answer", where=str(source), remedy=_REMEDY)
    os.replace(part, out)
    return BatchResult(answered, refused)


def check_files(source: Path, out: Path) -> None:
    """Raises UserError where input and output cannot be what they are said to be; nothing slow has started yet."""
    for name, path in (("input", source), ("output", out)):
        if path.suffix not in FORMATS:
            raise SettingError(f"{name} = {path}: the name must end in {' or '.join(FORMATS)}", where=name,
                               remedy=f"for instance --{name}=histories.jsonl")
    if not source.is_file():
        raise DataError("there is no such file", where=f"input={source}", remedy="check the path")
    if out.is_dir() or out.resolve() == source.resolve():
        raise SettingError(f"output = {out}: it would replace {'a folder' if out.is_dir() else 'the input'}",
                           where="output", remedy="give another name")


def read_lines(path: Path) -> Iterator[Line]:
    """Lines of a csv file with a header, or of JSONL with an object per line; empty lines are passed over.

    A line has one of `history` (titles: `A|B`, in JSONL also a list), `item_ids` (the same with ids) and `user_id`, and
    may have an `id`.

    Raises:
        DataError: the file is no text, or its header has none of the columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_lines(file, path) if path.suffix == ".csv" else _json_lines(file)
    except UnicodeDecodeError as error:
        raise DataError(f"the file is no UTF-8 text ({error.reason})", where=str(path),
                        remedy="save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"the file is no csv: {error}", where=str(path), remedy=_REMEDY) from error


def count_lines(path: Path) -> int:
    """How many lines `read_lines` gives, for a progress bar."""
    return sum(1 for _ in read_lines(path))


def _csv_lines(file: IO[str], path: Path) -> Iterator[Line]:
    reader = csv.DictReader(file)
    columns = [name.strip() for name in reader.fieldnames or ()]
    if not set(columns) & set(FIELDS):
        raise DataError(f"the first line names none of the columns {', '.join(FIELDS)}",
                        where=f"{path}, line 1: {','.join(columns)[:80]}", remedy=_REMEDY)
    reader.fieldnames = columns
    for row in reader:
        number = reader.line_num
        if None in row:
            yield Line(number, row.get("id") or str(number), {}, f"it has {len(row[None])} cells too many; a history "
                       "that holds a comma has to be put in double quotes")
        else:
            yield _line(number, {name: value for name, value in row.items() if value and value.strip()})


def _json_lines(file: IO[str]) -> Iterator[Line]:
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            yield Line(number, str(number), {}, f"it is no JSON: {error}")
            continue
        if isinstance(row, dict):
            yield _line(number, {name: value for name, value in row.items() if value is not None})
        else:
            yield Line(number, str(number), {}, "it is no JSON object, such as {\"history\": [\"A\", \"B\"]}")


def _line(number: int, row: dict[str, Any]) -> Line:
    name = str(row.get("id", number))
    given = [field for field in FIELDS if field in row]
    if len(given) != 1:
        return Line(number, name, {}, f"it has {' and '.join(given) or 'no history'}; exactly one of "
                    f"{', '.join(FIELDS)} is needed")
    value = row[given[0]]
    if given[0] == "user_id":
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return Line(number, name, {"user_id": str(value).strip()})
        return Line(number, name, {}, f"user_id = {value!r} is no id")
    words = split_words(value) if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, (str, int)) for word in words):
        return Line(number, name, {}, f"{given[0]} is neither a text nor a list of texts")
    return Line(number, name, {"titles" if given[0] == "history" else "item_ids": [str(word) for word in words]})


def _answers(recommender: Recommender, batch: Sequence[Line], top: int,
             stage: str | None) -> Iterator[tuple[Line, Recommendations | str]]:
    """Every line of a batch with its answer or its error, in order."""
    found: dict[int, Recommendations | str] = {}
    histories: dict[int, History] = {}
    for place, line in enumerate(batch):
        try:
            if line.error:
                found[place] = line.error
            else:
                histories[place] = recommender.history(**line.request)
        except UserError as error:
            found[place] = error.what + (f"; {error.remedy}" if error.remedy else "")
    found.update(zip(histories, recommender.recommend_many(list(histories.values()), top, stage), strict=True))
    for place, line in enumerate(batch):
        yield line, found[place]


def _writer(file: IO[str], suffix: str) -> Callable[[Line, Recommendations | str], None]:
    if suffix == ".jsonl":
        def write_json_line(line: Line, answer: Recommendations | str) -> None:
            content = {"error": answer} if isinstance(answer, str) else as_dictionary(answer)
            file.write(json.dumps({"line": line.number, "id": line.id, **content}, ensure_ascii=False) + "\n")

        return write_json_line
    writer = csv.DictWriter(file, ROW_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()

    def write_rows(line: Line, answer: Recommendations | str) -> None:
        rows = [{"error": answer}] if isinstance(answer, str) else as_rows(answer)
        writer.writerows({"line": line.number, "id": line.id, **row} for row in rows)

    return write_rows
