"""Reads large raw text files, plain or gzip, as blocks of whole lines, and tallies the bad lines.

Damage is never fatal here: a truncated gzip ends the file early and is noted. Knows nothing of what the lines
mean; `raw_ratings` and `raw_metadata` do.
"""

from __future__ import annotations

import codecs
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from recbole_soft.errors import DataError

BLOCK_BYTES = 16 << 20
HEAD_BYTES = 1 << 20
EXAMPLES_PER_REASON = 5
WRONG_FIELDS = "wrong number of fields"
CONTROL_CHARACTER = "tab, null or other control character"
UNDECODABLE = "bytes that are not UTF-8"
CUT_OFF = "cut off where the gzip data ends"
GZIP_MAGIC = b"\x1f\x8b"
GZIP_FORMAT = 31  # zlib's `wbits` for a gzip header with the largest window
OTHER_MAGIC = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PAR1": "parquet",
}
NEWLINE, COMMA, SPACE, DELETE, FIRST_NON_ASCII = 10, 44, 32, 127, 128


@dataclass
class LineTally:
    """How many lines were read and which were rejected, why and where.

    Attributes:
        read: lines that are not blank.
        rejected: count by reason.
        examples: first few line numbers (from 1) by reason.
    """

    read: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)

    def reject(self, reason: str, line_numbers: Sequence[int]) -> None:
        """Counts lines as bad; an empty sequence leaves no trace."""
        if len(line_numbers) == 0:
            return
        self.rejected[reason] = self.rejected.get(reason, 0) + len(line_numbers)
        examples = self.examples.setdefault(reason, [])
        examples.extend(int(number) for number in line_numbers[: EXAMPLES_PER_REASON - len(examples)])

    @property
    def bad(self) -> int:
        return sum(self.rejected.values())

    def summary(self) -> str:
        """One line per reason, such as `3 x broken JSON (lines 4, 9, 12)`."""
        return "\n".join(
            f"{count:,} x {reason} (lines {', '.join(map(str, self.examples[reason]))}"
            + (", ...)" if count > len(self.examples[reason]) else ")")
            for reason, count in self.rejected.items()
        )


class RawFile:
    """One raw input file.

    Attributes:
        is_gzip: by the first bytes, whatever the name says.
        tally: lines read and rejected; filled by whoever parses the lines.
        damage: what is wrong with the file as a whole, None when it could be read to its end.
    """

    def __init__(self, path: Path, role: str):
        """Args: path: the file. role: what to call it in messages, such as `ratings file`.

        Raises:
            DataError: no such file, not readable, empty, or packed in a way that is not gzip.
        """
        self.path, self.role = Path(path), role
        self.tally = LineTally()
        self.damage: str | None = None
        if not self.path.is_file():
            raise DataError(f"there is no {role} here", where=str(path), remedy="check the path for errors")
        try:
            with open(self.path, "rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError as error:
            raise DataError(f"the {role} cannot be read: {error.strerror}", where=str(path),
                            remedy="check that you have permission to read it") from error
        if not head:
            raise DataError(f"the {role} is empty", where=str(path), remedy="download it again")
        for magic, kind in OTHER_MAGIC.items():
            if head.startswith(magic):
                raise DataError(f"the {role} is a {kind} file", where=str(path),
                                remedy="unpack it to plain text (or gzip) first")
        self.is_gzip = head.startswith(GZIP_MAGIC)
        self.size = self.path.stat().st_size
        self.head_sha256 = hashlib.sha256(head).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What the manifest says about the file, ready for JSON."""
        return {
            "path": str(self.path), "bytes": self.size, "sha256_of_first_mebibyte": self.head_sha256,
            "gzip": self.is_gzip, "damage": self.damage, "lines_read": self.tally.read,
            "bad_lines": self.tally.bad, "bad_lines_by_reason": dict(self.tally.rejected),
            "first_bad_line_numbers": {reason: list(lines) for reason, lines in self.tally.examples.items()},
        }

    def blocks(self, progress: bool, purpose: str = "") -> Iterator[tuple[int, bytes]]:
        """Blocks of whole lines, each ending in a newline, with the number (from 1) of their first line.

        A byte-order mark is taken off. The unfinished last line of a truncated gzip is rejected: a number cut
        in two still looks like a number. `purpose` comes before the name of the file in the bar.
        """
        line_number = 1
        carried: list[bytes] = []
        for piece in _joined(self._pieces(progress, purpose)):
            cut = piece.rfind(b"\n") + 1
            if cut == 0:
                carried.append(piece)
                continue
            block = b"".join([*carried, piece[:cut]])
            carried = [piece[cut:]]
            yield line_number, block.removeprefix(codecs.BOM_UTF8) if line_number == 1 else block
            line_number += block.count(b"\n")
        rest = b"".join(carried)
        if line_number == 1:
            rest = rest.removeprefix(codecs.BOM_UTF8)
        if rest and self.damage:
            self.tally.read += 1
            self.tally.reject(CUT_OFF, [line_number])
        elif rest:
            yield line_number, rest + b"\n"

    def _pieces(self, progress: bool, purpose: str) -> Iterator[bytes]:
        # disable=None lets tqdm stay silent where the screen is a log file.
        disable = None if progress else True
        bar = tqdm(total=self.size, desc=purpose + self.path.name, unit="B", unit_scale=True, disable=disable)
        with bar, open(self.path, "rb") as file:
            if self.is_gzip:
                yield from self._unzipped(file, bar)
                return
            while piece := file.read(BLOCK_BYTES):
                bar.update(len(piece))
                yield piece

    def _unzipped(self, file: BinaryIO, bar: tqdm) -> Iterator[bytes]:
        # Where the data ends early, Python's gzip module drops text it has unpacked already; zlib gives it.
        decoder = zlib.decompressobj(GZIP_FORMAT)
        while packed := file.read(HEAD_BYTES):
            bar.update(len(packed))
            while packed:
                if decoder.eof:
                    packed = packed.lstrip(b"\0")  # zeros may fill the space after a gzip member
                    if not packed:
                        break
                    decoder = zlib.decompressobj(GZIP_FORMAT)
                try:
                    text = decoder.decompress(packed, BLOCK_BYTES)
                except zlib.error as error:
                    self.damage = f"the gzip data is damaged ({error}); what comes after the damage is lost"
                    return
                if text:
                    yield text
                packed = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        if rest := decoder.flush():
            yield rest
        if not decoder.eof:
            self.damage = "the gzip data is truncated; download the file again to have all of it"


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces of at least `BLOCK_BYTES` but for the last: what a part of a gzip unpacks to is small."""
    waiting: list[bytes] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= BLOCK_BYTES:
            yield b"".join(waiting)
            waiting.clear()
    if waiting:
        yield b"".join(waiting)


def well_formed_lines(
    block: bytes, first_line: int, width: int, tally: LineTally
) -> tuple[bytes, np.ndarray]:
    """The lines that split into `width` clean cells at commas, and the number of each.

    Args:
        block: whole lines, each ending in a newline; the others are rejected in `tally`.
    """
    # Ids and numbers never hold quotes or commas, so quotes around cells carry nothing.
    block = block.replace(b"\r\n", b"\n").replace(b'"', b"")
    bytes_ = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(bytes_ == NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    numbers = first_line + np.arange(len(ends))
    filled = ends > starts
    tally.read += int(filled.sum())

    commas = np.flatnonzero(bytes_ == COMMA)
    bad_width = filled & (np.searchsorted(commas, ends) - np.searchsorted(commas, starts) != width - 1)
    has_control = np.zeros(len(ends), dtype=bool)
    control = np.flatnonzero(((bytes_ < SPACE) & (bytes_ != NEWLINE)) | (bytes_ == DELETE))
    has_control[np.searchsorted(ends, control)] = True
    undecodable = np.zeros(len(ends), dtype=bool)
    if not block.isascii():
        for line in np.unique(np.searchsorted(ends, np.flatnonzero(bytes_ >= FIRST_NON_ASCII))):
            undecodable[line] = not _is_utf8(block[starts[line]:ends[line]])

    bad_width &= ~has_control & ~undecodable
    undecodable &= ~has_control
    tally.reject(WRONG_FIELDS, numbers[bad_width])
    tally.reject(CONTROL_CHARACTER, numbers[has_control])
    tally.reject(UNDECODABLE, numbers[undecodable])
    good = filled & ~bad_width & ~has_control & ~undecodable
    if good.all():
        return block, numbers
    lines = block.split(b"\n")
    return b"\n".join([lines[line] for line in np.flatnonzero(good)]) + b"\n", numbers[good]


def lines_where(block: bytes, mask: np.ndarray) -> bytes:
    """The lines of `mask` ([lines] bool) out of a block of lines that each end in a newline."""
    bytes_ = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(bytes_ == NEWLINE) + 1
    return bytes_[np.repeat(mask, np.diff(ends, prepend=0))].tobytes()


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def no_usable_line(file: RawFile, expected: str) -> DataError:
    """The error for a file of which not one line could be used."""
    return DataError(
        f"the {file.role} has no usable line; {file.tally.read:,} lines were read"
        + (f":\n{file.tally.summary()}" if file.tally.bad else ""),
        where=str(file.path),
        remedy=f"expected {expected}; check that --ratings and --metadata are not swapped",
    )
