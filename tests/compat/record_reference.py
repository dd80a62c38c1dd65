"""Trains a few small RecBole models and writes their losses and metrics to a JSON file.

`reference_old_stack.json` was written by this script on the libraries RecBole 1.2.1 was made for, where it
needs no shims. To record it again, with Python 3.11 (there are no newer wheels of ray 2.6):

    python3.11 -m venv old
    old/bin/pip install torch==2.13.0
    old/bin/pip install recbole==1.2.1 "numpy<2" "pandas<3" "setuptools<81" "scipy<1.13"
    cd tests/compat
    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 ../../old/bin/python record_reference.py reference_old_stack.json

`test_reference.py` runs it with `--with-compat` on the libraries of today. Writes nothing but the JSON file:
checkpoints and logs go to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

# The same kernels, summing in the same order, on every x86-64 processor with AVX2. Read when torch is loaded.
PINNED_KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
}
LIBRARIES = ("recbole", "torch", "numpy", "pandas", "scipy")

CONFIG: dict[str, Any] = {
    "epochs": 2,
    "train_batch_size": 512,
    "eval_batch_size": 512,
    "seed": 2020,
    "reproducibility": True,
    "use_gpu": False,
    "show_progress": False,
    "MAX_ITEM_LIST_LENGTH": 10,
    "user_inter_num_interval": "[5,24]",
    "item_inter_num_interval": "[5,inf)",
    "eval_args": {"split": {"RS": [8, 1, 1]}, "order": "TO", "group_by": "user", "mode": "full"},
    "topk": [5, 10],
    "metrics": ["Recall", "MRR", "NDCG", "Hit", "MAP", "Precision"],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 12,
}
SEQUENTIAL = {"train_neg_sample_args": None}
# SASRecF reads a token_seq field, LightGCN builds a dictionary-of-keys matrix: both met shims of their own.
MODELS: dict[str, dict[str, Any]] = {
    "SASRec": SEQUENTIAL,
    "GRU4Rec": SEQUENTIAL,
    "SASRecF": {
        **SEQUENTIAL,
        "epochs": 1,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
    },
    "LightGCN": {"epochs": 1},
    "Pop": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--with-compat", action="store_true", help="apply recbole_soft.compat first")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    arguments = parser.parse_args()
    # RecBole reads the command line too.
    sys.argv[1:] = []
    os.environ.update(PINNED_KERNELS)
    if arguments.with_compat:
        from bare_package import import_compat

        import_compat().apply()
    output = arguments.output.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        results = {name: train_and_evaluate(name, MODELS[name]) for name in arguments.models}
        os.chdir(output.parent)
    record = {
        "python": sys.version.split()[0],
        "versions": {library: metadata.version(library) for library in LIBRARIES},
        "environment": PINNED_KERNELS,
        "dataset": "ml-100k",
        "config": CONFIG,
        "models": results,
    }
    output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def train_and_evaluate(model_name: str, model_config: dict[str, Any]) -> dict[str, Any]:
    """Losses per epoch, and the metrics of the best epoch on the validation and the test split."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    config = Config(model=model_name, dataset="ml-100k", config_dict={**CONFIG, **model_config})
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(model_name)(config, train_data._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], model_name)(config, model)
    _, valid = trainer.fit(train_data, valid_data, verbose=False)
    test = trainer.evaluate(test_data)
    return {
        "model_config": model_config,
        "train_losses": [float(loss) for _, loss in sorted(trainer.train_loss_dict.items())],
        "valid": {metric: float(value) for metric, value in valid.items()},
        "test": {metric: float(value) for metric, value in test.items()},
    }


if __name__ == "__main__":
    main()
