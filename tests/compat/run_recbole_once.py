"""Runs RecBole's own `run_recbole` from start to end in the current folder and reports on it as JSON.

Run by `test_run_recbole.py` in a process and a folder of its own.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from bare_package import import_compat

CONFIG: dict[str, Any] = {
    "epochs": 1,
    "MAX_ITEM_LIST_LENGTH": 5,
    "train_batch_size": 512,
    "user_inter_num_interval": "[5,20]",
    "item_inter_num_interval": "[5,inf)",
    "train_neg_sample_args": None,
    "use_gpu": False,
    "show_progress": False,
    "checkpoint_dir": "saved",
    # The last five need counts as well as tensors.
    "metrics": ["NDCG", "ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"],
    "valid_metric": "NDCG@10",
    "topk": [10],
}


def main() -> None:
    output, sys.stdout = sys.stdout, sys.stderr
    sys.argv[1:] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compat = import_compat()
        # As `import recbole_soft` does it: RecBole is mended by the import below, not by us.
        compat.when_recbole_is_imported(compat.apply)
        result = train_and_load()
    result["warnings"] = sorted({f"{seen.category.__name__}: {seen.message}" for seen in caught})
    result["watchers_left"] = [str(finder) for finder in sys.meta_path if "RecBole" in type(finder).__name__]
    result["ray_modules"] = sorted(name for name in sys.modules if name.split(".")[0] == "ray")
    json.dump(result, output)


def train_and_load() -> dict[str, Any]:
    import torch
    from recbole.quick_start import load_data_and_model, run_recbole

    trained = run_recbole(model="SASRec", dataset="ml-100k", config_dict=CONFIG)
    (checkpoint_file,) = Path("saved").glob("SASRec-*.pth")
    config, model, dataset, *loaders = load_data_and_model(str(checkpoint_file))
    saved = torch.load(checkpoint_file, weights_only=False)["state_dict"]
    return {
        "test_result": {name: float(value) for name, value in trained["test_result"].items()},
        "loaded_model": config["model"],
        "loaded_items": dataset.item_num,
        "loaded_rows": [len(loader._dataset) for loader in loaders],
        "weights_equal": all(torch.equal(saved[name], value) for name, value in model.state_dict().items()),
    }


if __name__ == "__main__":
    main()
