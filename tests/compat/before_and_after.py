"""Shows every symptom, applies one shim after the other, and shows the symptoms again, as JSON on stdout.

Run by `test_shims.py` in a process of its own: RecBole is imported once, unmended.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

from bare_package import import_compat
from symptoms import SYMPTOMS


def main() -> None:
    warnings.simplefilter("ignore")
    output, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        report = observe_everything()
        os.chdir(os.sep)
    json.dump(report, output)


def observe_everything() -> dict[str, Any]:
    compat = import_compat()
    heavy = [name for name in ("torch", "numpy", "recbole") if name in sys.modules]
    all_shims, shims = compat.SHIMS, {}
    for index, shim in enumerate(all_shims):
        before = {show.__name__: outcome(show) for show in SYMPTOMS[shim]}
        compat.SHIMS = all_shims[: index + 1]
        compat.apply()
        after = {show.__name__: outcome(show) for show in SYMPTOMS[shim]}
        shims[shim] = {"applied": shim in compat.applied_shims(), "before": before, "after": after}
    patched_once = patched_objects()
    compat.apply()
    return {
        "imported_with_compat": heavy,
        "shims": shims,
        "second_apply_changes": [
            name for name, value in patched_objects().items() if value is not patched_once[name]
        ],
        "side_effects": side_effects(),
    }


def outcome(show: Callable[[], str]) -> str:
    try:
        return show()
    # Whatever the failure, it is what we came to see.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


def patched_objects() -> dict[str, object]:
    """What the shims put into RecBole's modules and classes, by name."""
    from recbole.config import Config, configurator
    from recbole.data import utils
    from recbole.data.dataset import dataset
    from recbole.evaluator.collector import Collector
    from recbole.quick_start import quick_start
    from recbole.trainer import trainer
    from scipy.sparse import dok_matrix

    return {
        "Config.compatibility_settings": Config.compatibility_settings,
        "dok_matrix._update": dok_matrix._update,
        "dataset.len": vars(dataset).get("len"),
        "dataset.pd": dataset.pd,
        "Dataset._fill_nan": dataset.Dataset._fill_nan,
        "Collector.get_data_struct": Collector.get_data_struct,
        "trainer.torch": trainer.torch,
        "load_data_and_model": quick_start.load_data_and_model,
        "get_flops": quick_start.get_flops,
        "configurator.eval": configurator.eval,
        "utils.os": utils.os,
    }


def side_effects() -> dict[str, Any]:
    """What must be the same for every other library as if the shims were not there."""
    import numpy as np
    import pandas as pd
    import torch
    from recbole.trainer import trainer
    from recbole.utils import get_flops
    from symptoms import resume_from_checkpoint

    class Pop:
        type = None

    trainer_torch, trainer.torch = trainer.torch, torch
    strict = outcome(resume_from_checkpoint)
    trainer.torch = trainer_torch
    return {
        "removed_numpy_names": [n for n in ("float_", "complex_", "unicode_") if n in vars(np)],
        "numpy_aliases": {n: vars(np)[n].__name__ for n in ("float", "str", "bool", "long")},
        "torch_load_of_a_checkpoint": strict,
        "agg_len": str(pd.Series([[0, 0]]).agg(len)),
        "stand_ins": [n for n in ("ray", "ray.tune", "kmeans_pytorch") if n in sys.modules],
        "flops_of_pop": get_flops(Pop(), None, None, None, None),
    }


if __name__ == "__main__":
    main()
