"""Command line of the benchmarks: `python -m benchmarks [--quick] [--json PATH] ...`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.measure import Measurement, measure
from benchmarks.report import document, scaling_table, table
from benchmarks.scaling import measure_scaling
from benchmarks.stages import FULL, QUICK, STAGE_NAMES, Workload, stage_makers
from benchmarks.workbench import SIZES, Workbench, open_workbench
from recbole_soft.artifacts import write_json
from recbole_soft.errors import EXIT_CODE, UserError
from recbole_soft.reporting.record import plain
from recbole_soft.run_log import quiet_libraries


def main(words: Sequence[str] | None = None) -> int:
    """Runs the benchmarks; returns the exit code."""
    options = _parser().parse_args(words)
    try:
        return _run(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CODE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(
        "Times our path and the plain formulation of each stage in turn, on one small model and ml-100k."))
    parser.add_argument("--quick", action="store_true", help="smaller stages, fewer rounds: under 5 minutes on 2 cores")
    parser.add_argument("--size", choices=SIZES, default="5M", help="parameters of the Llama (default: 5M)")
    parser.add_argument("--stages", default=",".join(STAGE_NAMES), help="such as sft,soft (default: all)")
    parser.add_argument("--rounds", type=_positive, help="timed rounds of every stage")
    parser.add_argument("--scaling", action="store_true", help="instead: cost by windows, items, history and beams")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="weights; results are equal to rounding in float32 alone")
    parser.add_argument("--threads", type=_positive, help="threads of torch (default: its own choice)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write everything as JSON")
    parser.add_argument("--folder", type=Path, default=Path("saved/benchmarks"), help="where the small model is kept")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _run(options: argparse.Namespace) -> int:
    names = [name.strip() for name in options.stages.split(",") if name.strip()]
    unknown = [name for name in names if name not in STAGE_NAMES]
    if unknown:
        raise UserError(f"there is no stage '{unknown[0]}'", "--stages", "known: " + ", ".join(STAGE_NAMES))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no GPU", "--device=cuda", "--device=cpu")
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    load = _workload(options)
    loads = [os.getloadavg()[0]]
    bench = open_workbench(SIZES[options.size], options.device, options.folder, options.dtype)
    sys.stdout.write(f"{bench.model.backbone.parameter_count:,} parameters, {options.dtype}, {options.device}, "
                     f"{torch.get_num_threads()} thread(s), load {loads[0]:.1f}\n")
    scaling = list(measure_scaling(bench, load.rounds, options.quick)) if options.scaling else []
    found = [] if options.scaling else _measured(bench, load, names)
    loads.append(os.getloadavg()[0])
    sys.stdout.write((scaling_table(scaling) if scaling else table(found)) + f"\nload at the end {loads[1]:.1f}\n")
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key not in ("json", "folder")}
        write_json(options.json, plain(document(settings, found, scaling, loads)))
    return 0


def _workload(options: argparse.Namespace) -> Workload:
    load = QUICK if options.quick else FULL
    return replace(load, rounds=options.rounds, job_rounds=options.rounds) if options.rounds else load


def _measured(bench: Workbench, load: Workload, names: Sequence[str]) -> list[Measurement]:
    makers, found = stage_makers(bench, load), []
    for name in names:
        sys.stderr.write(f"{name} ...\n")
        found.append(measure(makers[name](), load.job_rounds if name == "job" else load.rounds, bench.device))
    return found


if __name__ == "__main__":
    sys.exit(main())
