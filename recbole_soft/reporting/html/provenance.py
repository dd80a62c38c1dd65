"""Where the numbers come from: code, libraries, machines, data, protocol, and settings that differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recbole_soft.reporting.html.markup import Html, tag
from recbole_soft.reporting.html.tables import Column, table
from recbole_soft.reporting.html.view import DataGroup, Section
from recbole_soft.reporting.methods import NOT_DECIDING
from recbole_soft.reporting.records import RunRecord

SHOWN_VALUES = 8
LONGEST_VALUE = 80
# Already told by the tables of data and runs.
NOT_SETTINGS = NOT_DECIDING | {"dataset", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "device", "local_rank"}


def section(groups: Sequence[DataGroup]) -> Section:
    """Provenance of all runs."""
    runs = list(dict.fromkeys(run for group in groups for run in group.runs))
    return Section("Provenance", [_environment(runs), _data(runs), _protocol(groups), _differences(runs)])


def _environment(runs: Sequence[RunRecord]) -> Html:
    found: dict[str, Iterable[Any]] = {"commit of the code": (run.raw.get("commit") for run in runs)}
    packages = dict.fromkeys(name for run in runs for name in run.raw.get("versions") or {})
    found |= {name: [(run.raw.get("versions") or {}).get(name) for run in runs] for name in packages}
    machines = [run.raw.get("machine") or {} for run in runs]
    found |= {what: [one.get(key) for one in machines]
              for what, key in (("platform", "platform"), ("threads", "cores"), ("GPU", "gpu"))}
    found["language model"] = [_language_model(run) for run in runs if run.raw.get("stages")]
    rows = [[what, tag("span", _counted(values))] for what, values in found.items()]
    written = sorted(str(run.raw.get("written") or "")[:10] for run in runs)
    rows.append(["finished", f"{written[0]} to {written[-1]}" if written[0] != written[-1] else written[0] or "–"])
    caption = f"Of {len(runs)} runs; with several values, how many runs have each"
    return tag("div", tag("h3", "Code, libraries and machines"),
               table([Column("what"), Column("value")], rows, caption, is_sortable=False))


def _language_model(run: RunRecord) -> str:
    model = run.raw.get("language_model") or {}
    size = model.get("parameters")
    name = run.config.get("llm_path") or run.config.get("llm") or "unknown"
    return f"{name}, weights {model.get('base_fingerprint')}" + (f", {size:,} parameters" if size else "")


def _counted(values: Iterable[Any]) -> str:
    """Distinct values, the most frequent first, with their counts where there are several."""
    counts = Counter(_text(value) for value in values).most_common()
    told = [value if len(counts) == 1 else f"{value} ({count})" for value, count in counts[:SHOWN_VALUES]]
    more = len(counts) - SHOWN_VALUES
    return "; ".join(told + ([f"and {more} more"] if more > 0 else []))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _data(runs: Sequence[RunRecord]) -> Html:
    rows: dict[str, list[Any]] = {}
    for run in runs:
        data = run.data
        files = ", ".join(f"{name} {key}" for name, key in (data.get("files") or {}).items()) or None
        row = [run.dataset, data.get("users"), data.get("items"), data.get("train_windows"), data.get("valid_windows"),
               data.get("test_windows"), *(tag("code", data.get(key) or "–") for key in ("catalogue", "train", "valid",
                                                                                         "test")), files]
        rows.setdefault(repr(row), row)
    columns = [Column("data"), *(Column(name, True) for name in ("users", "items", "train", "valid", "test")),
               *(Column(f"{name} fingerprint") for name in ("catalogue", "train", "valid", "test")), Column("files")]
    caption = ("Sizes (windows) and fingerprints; language models may train on a sample, all are tested on the same "
               "windows")
    return tag("div", tag("h3", "Data"), table(columns, list(rows.values()), caption))


def _protocol(groups: Sequence[DataGroup]) -> Html:
    settings = dict.fromkeys(key for group in groups for run in group.runs for key in run.protocol)
    rows = [[tag("code", key), *(_counted(run.protocol.get(key) for run in group.runs) for group in groups)]
            for key in settings]
    return tag("div", tag("h3", "Protocol"), table([Column("setting"), *(Column(group.name) for group in groups)], rows,
                                                   "What every run of a table shares", is_sortable=False))


def _differences(runs: Sequence[RunRecord]) -> Html:
    by_model: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        by_model.setdefault((run.model, run.dataset), []).append(run)
    rows = [[model, dataset, tag("code", key), values] for (model, dataset), of_model in by_model.items()
            for key, values in _differing([run.config for run in of_model])]
    title = tag("h3", "Settings that differ between runs of a model")
    if not rows:
        return tag("div", title, tag("p", "None but the seed."))
    columns = [Column("model"), Column("data"), Column("setting"), Column("values (runs)")]
    return tag("div", title, table(columns, rows, "All resolved settings but the seed and names of folders"))


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    keys = dict.fromkeys(key for config in configs for key in config if key not in NOT_SETTINGS)
    return [(key, _counted(config.get(key) for config in configs)) for key in keys
            if len({_text(config.get(key)) for config in configs}) > 1]
