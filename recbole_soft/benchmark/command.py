"""The `benchmark` subcommand: a recipe in, finished runs and one table out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_soft.benchmark.cells import Cell, make_cells
from recbole_soft.benchmark.progress import duration, expected_seconds
from recbole_soft.benchmark.recipe import Recipe, find_recipe, read_recipe
from recbole_soft.benchmark.runner import Benchmark, failures
from recbole_soft.benchmark.validity import Validity
from recbole_soft.config.words import is_yes, listed, parse_words
from recbole_soft.data.sources import find_dataset, local_dataset
from recbole_soft.errors import SettingError
from recbole_soft.reporting.compare_cli import write_tables
from recbole_soft.reporting.comparison_formats import terminal
from recbole_soft.reporting.html.page import write_page
from recbole_soft.reporting.methods import Method
from recbole_soft.reporting.summaries import Summary, write_summary
from recbole_soft.run_folders import remove_half_written

EXAMPLE = "python run_recbole_soft.py benchmark --config=properties/recipe/quick.yaml"
HELP = f"""Runs a recipe: models, data sets and seeds, each cell once, and prints the table with its tests.

  --config=FILE        the recipe: a file, or the name of one in properties/recipe (docs/comparing.md)
  --dry_run=True       only says what would be run, what is done, and what is reused
  --output=FOLDER      tables and summary (default: the recipe's, else results/NAME; of a part of it NAME-part)
  --only=A,B           these models only, and those that they need
  --seeds=1,2          these seeds in place of the recipe's
  --datasets=A,B       these data sets only
  --same_code=True     runs again what another version of the code made
  --KEY=VALUE          any setting, for every cell, for instance --data_path=FOLDER or --epochs=1

The same command goes on after an interruption. Exit code 1: some cells failed, the others are done.
example: {EXAMPLE}
"""
OPTIONS = ("config", "dry_run", "output", "only", "seeds", "datasets", "same_code")
SOME_FAILED = 1


def main(argv: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code: 0 all done, 1 some cells failed.

    Raises:
        UserError: the recipe or an option is wrong; nothing has been run then.
    """
    if not argv or {"-h", "--help"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    words = parse_words(argv)
    options = {key: words.pop(key, "") for key in OPTIONS}
    if not options["config"]:
        raise SettingError("--config is missing", "command line", EXAMPLE)
    recipe = read_recipe(find_recipe(options["config"]), words, listed(options["only"]),
                         [_seed(text) for text in listed(options["seeds"])], listed(options["datasets"]))
    is_part = any(options[key] for key in ("only", "seeds", "datasets"))
    # The table of a part does not replace that of the whole.
    usual = recipe.output.with_name(f"{recipe.output.name}-part") if is_part else recipe.output
    output = Path(options["output"] or usual)
    if output.exists() and not output.is_dir():
        raise SettingError(f"{output} is a file", "--output" if options["output"] else str(recipe.place),
                           "give the name of a folder")
    benchmark = _benchmark(recipe, is_yes(options, "same_code"))
    if is_yes(options, "dry_run"):
        sys.stdout.write(plan_text(recipe, benchmark))
        return 0
    for dataset in recipe.datasets:  # before anything runs: it may have to be downloaded
        find_dataset(dataset, next(cell.settings.get("data_path") for cell in benchmark.cells
                                   if cell.dataset == dataset))
    benchmark.run()
    return _report(recipe, benchmark, output)


def _benchmark(recipe: Recipe, same_code: bool) -> Benchmark:
    from recbole_soft import plugin
    from recbole_soft.run_log import quiet_libraries

    cells = make_cells(recipe)
    saved = cells[0].settings.get("checkpoint_dir") or "saved"
    benchmark = Benchmark(cells, Path(saved) / "benchmark" / recipe.name, Validity(same_code))
    quiet_libraries()
    plugin.install()
    return benchmark


def plan_text(recipe: Recipe, benchmark: Benchmark) -> str:
    """What a benchmark would do, one line per cell."""
    states: Counter[str] = Counter()
    to_run: list[Cell] = []
    lines = [recipe.about] if recipe.about else []
    here = {dataset: local_dataset(dataset, next(cell.settings.get("data_path") for cell in benchmark.cells
                                                 if cell.dataset == dataset)) for dataset in recipe.datasets}
    lines += [f"{dataset}: {folder or 'not on this machine, will be downloaded'}" for dataset, folder in here.items()]
    for number, cell in enumerate(benchmark.cells, 1):
        state, told = _state(benchmark, cell)
        states[state] += 1
        to_run += [cell] * (state in ("run", "maybe"))
        lines.append(f"{number:>4}  {state:<7} {cell.name}{told}")
    expected = [expected_seconds(cell, benchmark.cells) for cell in to_run]
    time = f"; about {duration(sum(expected))}" if expected and None not in expected else ""
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return "\n".join([*lines, f"{len(benchmark.cells)} cells: {counts}{time}"]) + "\n"


def _state(benchmark: Benchmark, cell: Cell) -> tuple[str, str]:
    """What would happen to a cell: done, shared (its row is or will be in another run), run, maybe, out of a grid."""
    if not cell.is_search and benchmark.is_left_out(cell):
        return "out", ": validation chose another variant"
    if benchmark.awaits_choice(cell):
        return "maybe", ": if validation chooses it"
    if not benchmark.is_known(cell):
        return "run", f": after {', '.join(provider.name for provider in cell.needs.values())}"
    why = benchmark.look(cell)
    if cell.result is not None:
        model, place = cell.result.run.model, cell.result.run.place
        return ("done", f": {place}") if model == cell.entry.model else ("shared", f": stage of {place}")
    if lenders := benchmark.lenders(cell):
        return "shared", f": will be a stage of {lenders[0].name}"
    return "run", f": again, because {why}" if why else ""


def _report(recipe: Recipe, benchmark: Benchmark, output: Path) -> int:
    """Writes tables and summary, prints the table, and says what failed."""
    failed = failures(benchmark.cells)
    try:
        _show_table(recipe, benchmark, failed, output)
    finally:
        if failed:
            told = "\n".join(f"  {cell.name}\n      " + cell.failure.replace("\n", "\n      ") for cell in failed)
            sys.stderr.write(f"{len(failed)} of {len(benchmark.cells)} cells failed; the same command tries them "
                             f"again:\n{told}\n")
    return SOME_FAILED if failed else 0


def _show_table(recipe: Recipe, benchmark: Benchmark, failed: Sequence[Cell], output: Path) -> None:
    methods = methods_of(recipe, benchmark)
    if not methods:
        return
    notes = {dataset: list(lines) for dataset, lines in benchmark.notes.items()}
    for cell in failed:
        notes.setdefault(cell.dataset, []).append(f"missing: {cell.name}")
    summary = Summary(methods, recipe.metrics, recipe.baseline, notes)
    comparison = summary.compared()
    remove_half_written(output)
    files = [*write_tables(output, comparison), write_summary(output, summary) / "summary.json",
             write_page(output / "report.html", comparison, f"Benchmark {recipe.name}")]
    sys.stdout.write(terminal(comparison) + "\n" + "\n".join(map(str, files)) + "\n")
    sys.stdout.flush()


def methods_of(recipe: Recipe, benchmark: Benchmark) -> list[Method]:
    """Rows of the table: recipe's order, a grid's variants one below the other, or the one that was chosen."""
    methods = []
    for dataset in recipe.datasets:
        for entry in recipe.entries:
            for variant in entry.variants:
                cells = [cell for cell in benchmark.cells if (cell.entry, cell.dataset, cell.variant)
                         == (entry, dataset, variant) and cell.result is not None]
                if cells and not benchmark.is_left_out(cells[0]):
                    methods.append(_method(cells, {} if benchmark.is_chosen(cells[0]) else variant))
    return methods


def _method(cells: Sequence[Cell], shown: Mapping[str, Any]) -> Method:
    results = tuple(sorted((cell.result for cell in cells), key=lambda result: result.run.seed))
    label = " ".join([cells[0].entry.label or results[0].label, *(f"{key}={value}" for key, value in shown.items())])
    return Method(label, results, cells[0].entry.model)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise SettingError(f"seeds: {text} is no integer from 0", "--seeds", "for example --seeds=42,43")
    return int(text)
