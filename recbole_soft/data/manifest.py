"""What a preparation of raw files did: inputs, formats, counts, sizes and warnings, for people and for JSON.

Also knows the sizes the SOFT paper published, so that a user sees at once whether the same data was built.
Does not read or count anything itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

PAPER_K = 10


class DataSize(NamedTuple):
    """Number of users, items and interactions."""

    users: int
    items: int
    interactions: int

    def __str__(self) -> str:
        return f"{self.users:,} users / {self.items:,} items / {self.interactions:,} interactions"


# Amazon Reviews 2023 after the iterative 10-core (SOFT, arXiv 2505.20771, table of data sets).
PUBLISHED_SIZES = {
    "game": DataSize(11_658, 5_335, 196_508),
    "movie": DataSize(67_917, 45_578, 1_650_120),
    "kindle": DataSize(76_691, 61_528, 2_155_790),
}


@dataclass(frozen=True)
class Manifest:
    """Record of one preparation; saved as `NAME.manifest.json`.

    Attributes:
        name: name of the data set.
        created: date and time in UTC, ISO 8601.
        inputs: description of the files `ratings` and `metadata`.
        formats: what was detected: `metadata_edition`, `ratings_columns`, `ratings_header`, `timestamp_unit`.
        dropped: rows or records left out, by reason.
        written: size of what was written.
        k_core: the k-core applied to what was written, None for none.
        ten_core: size after the iterative 10-core.
        engine: what read and wrote the rows, `pandas` or `polars`; the files do not depend on it.
        published: size in the paper after the 10-core, for its data sets.
        warnings: what the user should look at, one sentence each.
    """

    name: str
    created: str
    inputs: dict[str, dict[str, Any]]
    formats: dict[str, str | bool]
    dropped: dict[str, int]
    written: DataSize
    k_core: int | None
    ten_core: DataSize
    engine: str = "pandas"
    published: DataSize | None = None
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The manifest as indented JSON; sizes become objects with named numbers."""
        content = asdict(self)
        for key in ("written", "ten_core", "published"):
            size = getattr(self, key)
            content[key] = None if size is None else size._asdict()
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def table(self) -> str:
        """A short table for the screen, warnings at the end."""
        rows = []
        for role, file in self.inputs.items():
            read, bad = file["lines_read"], file["bad_lines"]
            rows.append((role, f"{read:,} lines read, {bad:,} bad ({file['path']})"))
            for reason, count in file["bad_lines_by_reason"].items():
                lines = ", ".join(map(str, file["first_bad_line_numbers"][reason]))
                rows.append(("", f"  {count:,} x {reason}: line {lines}"))
        rows += [(key.replace("_", " "), str(value)) for key, value in self.formats.items()]
        rows.append(("engine", self.engine))
        rows += [(f"dropped: {reason}", f"{count:,}") for reason, count in self.dropped.items() if count]
        rows.append((f"written ({self.k_core}-core)" if self.k_core else "written", str(self.written)))
        rows.append((f"after {PAPER_K}-core", str(self.ten_core)))
        if self.published:
            verdict = "equal" if self.published == self.ten_core else "not equal"
            rows.append(("published", f"{self.published} ({verdict})"))
        width = max(len(label) for label, _ in rows) + 2
        lines = [f"{label:<{width}}{text}" for label, text in rows]
        return "\n".join([*lines, *(f"WARNING: {warning}" for warning in self.warnings)])


def size_warning(name: str, ten_core: DataSize) -> str | None:
    """The sentence that says that the 10-core is not the one published, None when it is or none is known."""
    published = PUBLISHED_SIZES.get(name)
    if published is None or published == ten_core:
        return None
    return (
        f"'{name}' has {ten_core} after the 10-core, the paper has {published}: results cannot be compared "
        "with the paper's, which used the complete ratings and item metadata of Amazon Reviews 2023"
    )
