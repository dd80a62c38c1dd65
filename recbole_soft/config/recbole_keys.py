"""RecBole's own settings: which exist, for which model, and the kinds of the common ones.

Everything is read from RecBole's files as text (its YAML, and `config["..."]` in its sources by way of
`ast`): a typo is reported before RecBole and torch are imported. Knows nothing of our own settings.
"""

from __future__ import annotations

import ast
import copy
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from recbole_soft.config.schema import Setting
from recbole_soft.config.source_reading import parse_source
from recbole_soft.config.yaml_files import load_yaml
from recbole_soft.registry import MODELS, recbole_dir, recbole_model_files

# RecBole works these out itself, or they belong to its multi-process launcher.
DERIVED_KEYS = frozenset({"MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "device", "single_spec",
                          "valid_neg_sample_args", "test_neg_sample_args"})
MULTI_PROCESS_KEYS = frozenset({"nproc", "local_rank", "offset", "ip", "port"})

_EVERY_MODEL_SOURCES = ("config", "data", "evaluator")
_TOP_LEVEL_KEY = re.compile(r"^([A-Za-z]\w*)\s*:", re.MULTILINE)
_LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")

_TYPED = (
    Setting("epochs", "int", 300, "longest training, in epochs", low=1),
    Setting("train_batch_size", "int", 2048, "training rows per optimiser step", low=1),
    Setting("learning_rate", "float", 0.001, "learning rate", above=0),
    Setting("learner", "str", "adam", "optimiser", choices=_LEARNERS),
    Setting("weight_decay", "float", 0.0, "L2 penalty", low=0),
    Setting("eval_step", "int", 1, "epochs between validations", low=0),
    Setting("stopping_step", "int", 10, "validations without progress that end RecBole's training", low=0),
    Setting("eval_batch_size", "int", 4096, "rows scored at once in evaluation", low=1),
    Setting("metrics", "list", ["Recall", "MRR", "NDCG", "Hit", "Precision"], "metrics to report"),
    Setting("topk", "list[int]", [10], "cut-offs of the metrics", low=1),
    Setting("valid_metric", "str", "MRR@10", "metric that picks the best epoch, METRIC@K"),
    Setting("metric_decimal_place", "int", 4, "decimals of metrics", low=0),
    Setting("loss_decimal_place", "int", 4, "decimals of losses", low=0),
    Setting("MAX_ITEM_LIST_LENGTH", "int", 50, "longest history", low=1),
    Setting("seed", "int", 2020, "random seed", low=0, high=2**32 - 1),
    Setting("reproducibility", "bool", True, "deterministic kernels"),
    Setting("use_gpu", "bool", True, "use a GPU if there is one"),
    Setting("worker", "int", 0, "data loading processes", low=0),
    Setting("show_progress", "bool", True, "progress bars"),
    Setting("state", "str", "INFO", "level of logging", choices=_LEVELS),
    Setting("data_path", "path", "dataset/", "folder that holds the data set folders"),
    Setting("checkpoint_dir", "path", "saved", "folder for results and checkpoints"),
    Setting("save_dataset", "bool", False, "RecBole's pickle of the data set; refused, because reading one runs code"),
    Setting("save_dataloaders", "bool", False, "RecBole's pickle of the data loaders; refused likewise"),
    Setting("shuffle", "bool", True, "shuffle the training rows"),
    Setting("repeatable", "bool", False, "RecBole's switch for repeated items; True for sequential models"),
    Setting("enable_amp", "bool", False, "RecBole's mixed precision"),
    Setting("enable_scaler", "bool", False, "RecBole's gradient scaler"),
    Setting("log_wandb", "bool", False, "log to Weights & Biases"),
    Setting("eval_args", "dict", {}, "split, order, grouping and mode of evaluation"),
    Setting("load_col", "dict", None, "columns to read per atomic file"),
    Setting("train_neg_sample_args", "dict", None, "negatives in training; None with loss_type CE"),
)


@cache
def typed_settings() -> tuple[Setting, ...]:
    """RecBole's common settings with kind and range; the defaults are RecBole's."""
    return tuple(replace(setting, section="RecBole", ignore_case=True,
                         choices=metric_names() if setting.name == "metrics" else setting.choices)
                 for setting in _TYPED)


@cache
def metric_names() -> tuple[str, ...]:
    """Names RecBole accepts in `metrics`, in any case."""
    tree = parse_source(recbole_dir() / "evaluator" / "metrics.py")
    return tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef))


@cache
def general_keys() -> frozenset[str]:
    """Settings that mean something for every model."""
    root = recbole_dir()
    yaml_files = [root / "properties" / "overall.yaml", root / "properties" / "dataset" / "sample.yaml",
                  root / "properties" / "quick_start_config" / "sequential.yaml"]
    sources = [root / "model" / "abstract_recommender.py"]
    for folder in _EVERY_MODEL_SOURCES:
        sources += sorted((root / folder).rglob("*.py"))
    keys = _argument_lists(root).union(*map(_yaml_keys, yaml_files), *map(_accessed_keys, sources))
    return frozenset(keys - DERIVED_KEYS - MULTI_PROCESS_KEYS)


def model_keys(name: str) -> frozenset[str]:
    """Settings of one of RecBole's models: its YAML, its source and the RecBole models it is built on."""
    path = recbole_model_files().get(name)
    return frozenset() if path is None else _yaml_keys(_model_yaml(name)) | source_keys(path)


def source_keys(path: Path) -> frozenset[str]:
    """Keys read by a model's source file and by the RecBole model files it imports (their YAML included)."""
    keys: set[str] = set()
    todo, done = [path], set()
    while todo:
        current = todo.pop()
        if current in done or not current.is_file() or current.name == "__init__.py":
            continue
        done.add(current)
        keys |= _accessed_keys(current)
        keys |= {key for name, file in recbole_model_files().items() if file == current
                 for key in _yaml_keys(_model_yaml(name))}
        todo += _imported_recbole_models(current)
    return frozenset(keys)


def models_with(key: str) -> list[str]:
    """RecBole's sequential models whose YAML has `key`."""
    return [name for name in recbole_model_files() if key in _yaml_keys(_model_yaml(name))]


def recbole_defaults(model: str) -> dict[str, Any]:
    """Values of RecBole's YAML for a sequential model, before any of ours.

    Args:
        model: any model name; unknown ones get what every sequential model gets, ours what they are based on.
    """
    properties = recbole_dir() / "properties"
    files = (properties / "overall.yaml", _model_yaml(_base_of(model)), properties / "dataset" / "sample.yaml",
             properties / "quick_start_config" / "sequential.yaml")
    values: dict[str, Any] = {}
    for path in files:
        values.update(_yaml_values(path))
    return copy.deepcopy(values)


def base_defaults(model: str) -> dict[str, Any]:
    """RecBole's values for the RecBole model that one of ours is based on; none for other models."""
    base = _base_of(model)
    return {} if base == model else copy.deepcopy(_yaml_values(_model_yaml(base)))


def sequential_defaults() -> dict[str, Any]:
    """What RecBole gives every sequential model: chronological split, full ranking, repeatable."""
    return copy.deepcopy(_yaml_values(recbole_dir() / "properties" / "quick_start_config" / "sequential.yaml"))


def _base_of(model: str) -> str:
    return (MODELS[model].based_on if model in MODELS else None) or model


def _model_yaml(name: str) -> Path:
    return recbole_dir() / "properties" / "model" / f"{name}.yaml"


@cache
def _yaml_values(path: Path) -> dict[str, Any]:
    """Values of one of RecBole's files, shared by all callers: copy before handing out."""
    return load_yaml(path).values if path.is_file() else {}


@cache
def _yaml_keys(path: Path) -> frozenset[str]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return frozenset(_TOP_LEVEL_KEY.findall(text))


def _argument_lists(root: Path) -> frozenset[str]:
    tree = parse_source(root / "utils" / "argument_list.py")
    values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    lists = [ast.literal_eval(value) for value in values if isinstance(value, ast.List)]
    return frozenset(name for names in lists for name in names)


@cache
def _accessed_keys(path: Path) -> frozenset[str]:
    """Names in `config["name"]`, `self.config["name"]`, `final_config_dict["name"]` and `.get("name")`."""
    keys: set[str] = set()
    for node in ast.walk(parse_source(path)):
        if isinstance(node, ast.Subscript):
            holder, key = node.value, node.slice
        elif isinstance(node, ast.Call) and node.args and getattr(node.func, "attr", None) == "get":
            holder, key = node.func.value, node.args[0]
        else:
            continue
        held_by = getattr(holder, "id", getattr(holder, "attr", None))
        if held_by in ("config", "final_config_dict") and isinstance(key, ast.Constant):
            keys.add(key.value)
    return frozenset(key for key in keys if isinstance(key, str) and key.isidentifier())


@cache
def _imported_recbole_models(path: Path) -> list[Path]:
    tree = parse_source(path)
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    paths = [recbole_dir().parent.joinpath(*module.split(".")).with_suffix(".py")
             for module in modules if module.startswith("recbole.model.")]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("recbole.model.") for alias in node.names}
    return paths + [recbole_model_files()[name] for name in sorted(imported) if name in recbole_model_files()]
