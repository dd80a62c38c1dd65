"""Settings that are fine alone and wrong together, or that need a file or library that is not there.

Looks at merged values only: which file or layer they came from matters only for the message. Does not open
the files it asks about and imports none of the libraries.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_soft.config.yaml_files import properties_root
from recbole_soft.errors import SettingError, nearest
from recbole_soft.parallel.launch import asks_for_shards
from recbole_soft.registry import LLM_FAMILY, recbole_model_names, traditional_names

_PICKLED_CACHES = ("save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path")
_NUMBER = r"\s*(?:\d+(?:\.\d+)?|-?inf)\s*"
_INTERVAL = re.compile(rf"\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*\Z")
_ONLY_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
_RANK_METRICS = ("hit", "recall", "precision", "ndcg", "mrr", "map")
_VALID_METRIC = re.compile(r"([A-Za-z]+)@([1-9][0-9]*)\Z")


class _Context:
    """Merged values, what of them the user wrote, and where."""

    def __init__(self, values: Mapping[str, Any], user: Mapping[str, Any], sources: Mapping[str, str]):
        self.values, self.user, self._sources = values, user, sources

    def __getitem__(self, key: str) -> Any:
        return self.values.get(key)

    def mistake(self, what: str, keys: tuple[str, ...], remedy: str) -> SettingError:
        places = dict.fromkeys(self._sources.get(key, "config_dict") for key in keys if key in self.user)
        return SettingError(what, "; ".join(places) or None, remedy)


def cross_checks(values: Mapping[str, Any], user: Mapping[str, Any], sources: Mapping[str, str],
                 family: str) -> list[SettingError]:
    """All mistakes in how settings go together.

    Args:
        values: merged values of all layers, as their Python types.
        user: the part of `values` that the user set.
        sources: where the user set each key.
        family: `llm`, `traditional` or `recbole`.
    """
    context = _Context(values, user, sources)
    checks = _LLM_CHECKS if family == LLM_FAMILY else ()
    return [mistake for check in (*_CHECKS, *checks) if (mistake := check(context)) is not None]


def _valid_metric(run: _Context) -> SettingError | None:
    """RecBole would find out after the first epoch."""
    match = _VALID_METRIC.match(run["valid_metric"])
    metrics = [run["metrics"]] if isinstance(run["metrics"], str) else run["metrics"]
    cutoffs = [run["topk"]] if isinstance(run["topk"], int) else run["topk"]
    keys = ("valid_metric", "metrics", "topk")
    if match is None:
        return run.mistake(f"valid_metric = {run['valid_metric']}: must be METRIC@K", keys[:1],
                           f"for example valid_metric={metrics[0]}@{cutoffs[0]}")
    if match[1].lower() not in [metric.lower() for metric in metrics] or int(match[2]) not in cutoffs:
        return run.mistake(
            f"valid_metric = {run['valid_metric']} is not computed: metrics are {', '.join(metrics)} at "
            f"{', '.join(map(str, cutoffs))}", keys, f"for example valid_metric={metrics[0]}@{cutoffs[0]}")
    return None


def _negatives(run: _Context) -> SettingError | None:
    if run["loss_type"] == "CE" and run.user.get("train_neg_sample_args") is not None:
        return run.mistake("loss_type CE scores every item and takes no negatives",
                           ("train_neg_sample_args", "loss_type"), "remove train_neg_sample_args")
    return None


def _teacher(run: _Context) -> SettingError | None:
    """A model that has the setting `teacher` needs a finished folder of `export-teacher`."""
    if "teacher" not in run.values:
        return None
    folder, command = run["teacher"], "python run_recbole_soft.py export-teacher --run=saved/RUN --out=FOLDER"
    if folder is None:
        return run.mistake("teacher is missing: this model learns from an LLM run", ("model",),
                           f"{command}, then --teacher=FOLDER")
    if not (Path(folder) / "teacher.json").is_file():
        return run.mistake(f"teacher = {folder}: there is no teacher.json in this folder", ("teacher",), command)
    return None


def _engine(run: _Context) -> SettingError | None:
    """Answers of an engine are read from the folder of an export, and free decoding alone is the engine's."""
    folder, command = run["self_distilled"], "python run_recbole_soft.py distill export --out=FOLDER ..."
    if folder is None and run.user.get("engine_pick") is not None:
        return run.mistake("engine_pick has no effect without self_distilled", ("engine_pick",),
                           "add self_distilled=FOLDER, or remove it")
    if folder is not None and not (Path(folder) / "engine.json").is_file():
        return run.mistake(f"self_distilled = {folder}: there is no engine.json in this folder", ("self_distilled",),
                           command)
    return None


def _thoughts(run: _Context) -> SettingError | None:
    file = run["cot_path"]
    if run["cot"] == "path" and (file is None or not Path(file).is_file()):
        return run.mistake("cot = path needs cot_path" if file is None else f"cot_path = {file}: there is no such file",
                           ("cot", "cot_path"), "give a file that an earlier run with --cot=generate wrote")
    if run["cot"] != "path" and run.user.get("cot_path") is not None:
        return run.mistake(f"cot_path = {file} has no effect with cot = {run['cot']}", ("cot_path", "cot"),
                           "use cot=path, or remove it")
    return None


def _quantized_full_tuning(run: _Context) -> SettingError | None:
    if run["quantization"] != "none" and run["tuning"] == "full":
        return run.mistake(f"quantization = {run['quantization']} cannot be trained with tuning = full",
                           ("quantization", "tuning"), "use tuning=lora, or quantization=none")
    return None


def _sharded_model(run: _Context) -> SettingError | None:
    """Pieces are of weights that are never trained, and of plain numbers."""
    if not (run["shard_model"] or asks_for_shards()):
        return None
    asked = "shard_model" if run["shard_model"] else "a model in pieces (asked for by accelerate's config file)"
    if run["tuning"] == "full":
        return run.mistake(f"{asked} and tuning = full do not go together", ("shard_model", "tuning"),
                           "use tuning=lora; or processes with the whole model each")
    if run["quantization"] != "none":
        return run.mistake(f"{asked} and quantization = {run['quantization']} do not go together",
                           ("shard_model", "quantization"), "use one of them")
    return None


def _quantization_library(run: _Context) -> SettingError | None:
    if run["quantization"] != "none" and importlib.util.find_spec("bitsandbytes") is None:
        return run.mistake(f"quantization = {run['quantization']} needs bitsandbytes, which is not installed",
                           ("quantization",), 'pip install "recbole_soft[quant]"')
    return None


def _sft_adapter(run: _Context) -> SettingError | None:
    if run["sft_adapter"] is not None and not Path(run["sft_adapter"]).exists():
        return run.mistake(f"sft_adapter = {run['sft_adapter']}: there is no such file or folder",
                           ("sft_adapter",),
                           "give the folder of a finished SFT adapter, or leave it out to train one")
    return None


def _injection(run: _Context) -> SettingError | None:
    file = run["injection_model_file"]
    if run["injection"] == "cf" and file is None:
        return run.mistake("injection = cf needs injection_model_file", ("injection",),
                           "train a RecBole model here and give its run folder, injection_model_file=FOLDER")
    if run["injection"] == "cf" and not Path(file).is_dir():
        return run.mistake(f"injection_model_file = {file}: there is no such folder", ("injection_model_file",),
                           "give the run folder of a RecBole model, for instance saved/SASRec-ml-100k-1a2b3c4d")
    if run["injection"] != "cf" and run.user.get("injection_model_file") is not None:
        return run.mistake(f"injection_model_file = {file} has no effect with injection = {run['injection']}",
                           ("injection_model_file", "injection"), "use injection=cf, or remove it")
    by = run["valid_metric"]
    if run["injection"] != "none" and run["injection_gamma"] is None and \
            by.partition("@")[0].lower() not in _RANK_METRICS:
        return run.mistake(f"valid_metric = {by} cannot choose an injection's gamma: no rank decides it",
                           ("valid_metric", "injection"), "--valid_metric=NDCG@10, or --injection_gamma=NUMBER")
    return None


def _retriever(run: _Context) -> SettingError | None:
    name = run["retriever"]
    known = [*traditional_names(), *recbole_model_names()]
    if name == "LLMCF":
        return run.mistake("retriever = LLMCF: its examples are training windows, and here those are a sample",
                           ("retriever",), "--retriever=SASRec, or another model that reads no examples")
    if name is None or name in known or Path(name).is_dir():
        return None
    return run.mistake(f"retriever = {name}: neither a run folder nor a RecBole model", ("retriever",),
                       f"{nearest(name, known)}; or give a run folder, for instance saved/SASRec-ml-100k-1a2b3c4d")


def _intervals(run: _Context) -> SettingError | None:
    """RecBole leaves out an interval that it cannot read, and with it the filter."""
    for key in ("user_inter_num_interval", "item_inter_num_interval"):
        text = run.user.get(key)
        if text is not None and not all(map(_INTERVAL.match, str(text).split(";"))):
            return run.mistake(f"{key} = {text}: must be an interval of numbers", (key,),
                               f'for example {key}="[10,inf)"')
    return None


def _fields(run: _Context) -> SettingError | None:
    names = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
    columns = [run[name] for name in names]
    if len(set(columns)) < len(columns):
        return run.mistake(f"users, items and times must be three columns, not {', '.join(map(str, columns))}", names,
                           "name a column of its own for each")
    if run.user.get("LIST_SUFFIX") is not None and not str(run["LIST_SUFFIX"]).strip():
        return run.mistake("LIST_SUFFIX is empty", ("LIST_SUFFIX",), "remove it")
    return None


def _protocol(run: _Context) -> SettingError | None:
    """What RecBole can and this package does not: every method has the same windows and ranks the whole catalogue."""
    mode = (run.user.get("eval_args") or {}).get("mode", "full")
    if any(value != "full" for value in (mode.values() if isinstance(mode, dict) else [mode])):
        return run.mistake(f"eval_args: mode = {mode}: every method ranks the whole catalogue here", ("eval_args",),
                           "write mode: full, or leave it out")
    if run.user.get("benchmark_filename"):
        return run.mistake("benchmark_filename: windows are cut and split here, for every method alike",
                           ("benchmark_filename",), "remove it")
    read = {run["TIME_FIELD"], *(run["selected_features"] or ())}
    interval = run.user.get("val_interval")
    if unread := [name for name in interval if name not in read] if isinstance(interval, dict) else ():
        return run.mistake(f"val_interval = {run['val_interval']}: of interactions, only user, item and time are read, "
                           f"{', '.join(unread)} is not", ("val_interval",),
                           f"leave those rows out of the file, or name {' or '.join(sorted(read))}")
    clip = run.user.get("clip_grad_norm")
    if clip is not None and not (isinstance(clip, dict) and "max_norm" in clip):
        return run.mistake(f"clip_grad_norm = {clip}: must be a mapping with max_norm", ("clip_grad_norm",),
                           "for example clip_grad_norm={max_norm: 1.0}")
    if run["log_wandb"] and importlib.util.find_spec("wandb") is None:
        return run.mistake("log_wandb = True needs wandb, which is not installed", ("log_wandb",), "pip install wandb")
    return None


def _half_precision_full_tuning(run: _Context) -> SettingError | None:
    if run["dtype"] == "float16" and run["tuning"] == "full":
        return run.mistake("weights in float16 cannot be trained with tuning = full: AdamW's small numbers become 0",
                           ("dtype", "tuning"), "--dtype=float32 or --dtype=bfloat16, or tuning=lora")
    return None


def _pickled_caches(run: _Context) -> SettingError | None:
    keys = tuple(key for key in _PICKLED_CACHES if run.user.get(key))
    if not keys:
        return None
    return run.mistake(f"{keys[0]} = {run[keys[0]]}: RecBole keeps data as pickles, which run code when they are read; "
                       "they are neither written nor read here", keys, f"remove {' and '.join(keys)}")


def _msl(run: _Context) -> SettingError | None:
    keys = tuple(key for key in ("msl_temperature", "msl_eta") if run.user.get(key) is not None)
    if keys and run["lm_loss"] != "msl":
        return run.mistake(f"{keys[0]} = {run[keys[0]]} has no effect with lm_loss = {run['lm_loss']}",
                           (*keys, "lm_loss"), "use lm_loss=msl, or remove it")
    if run["lm_loss"] == "msl" and run["decoding"] != "constrained":
        return run.mistake("lm_loss = msl never lowers tokens that no title goes on with, and free decoding would "
                           "answer with them", ("lm_loss", "decoding"), "add decoding=constrained")
    return None


def _llm_preset(run: _Context) -> SettingError | None:
    if run.user.get("llm") is None:
        return None
    presets = [path.stem for path in (properties_root() / "llm").glob("*.yaml")]
    if run["llm"] in presets:
        return None
    return run.mistake(f"llm = {run['llm']}: there is no such preset in properties/llm", ("llm",),
                       nearest(run["llm"], presets) + "; a checkpoint goes into llm_path")


def _llm_path(run: _Context) -> SettingError | None:
    """Only what can be nothing but a folder: `name/name` may be a Hugging Face id."""
    path = run["llm_path"]
    if path is not None and path.startswith((".", "/")) and not Path(path).exists():
        return run.mistake(f"llm_path = {path}: there is no such folder", ("llm_path",),
                           "give an existing folder or a Hugging Face id such as meta-llama/Llama-3.2-3B")
    return None


_NO_EFFECT_ON_LLM_METHODS = {
    "learner": "LLM methods train with AdamW", "stopping_step": "LLM methods stop early by patience",
    "enable_amp": "the precision of LLM methods is dtype", "enable_scaler": "the precision of LLM methods is dtype",
    "shuffle": "LLM methods draw a new order every epoch",
}


def _without_effect(run: _Context) -> SettingError | None:
    for key, reason in _NO_EFFECT_ON_LLM_METHODS.items():
        if key in run.user:
            return run.mistake(f"{key} has no effect on this method: {reason}", (key,), f"remove {key}")
    adapter = [key for key in _ONLY_LORA if key in run.user]
    if adapter and run["tuning"] == "full" and "tuning" not in run.user:  # whoever asks for full tuning knows
        return run.mistake(f"{' and '.join(adapter)}: no effect with tuning = full, as llm = {run['llm']} has it",
                           (*adapter,), f"--tuning=lora, or remove {' and '.join(adapter)}")
    return None


_CHECKS: tuple[Callable[[_Context], SettingError | None], ...] = (
    _valid_metric, _negatives, _teacher, _engine, _thoughts, _pickled_caches, _intervals, _fields, _protocol)
_LLM_CHECKS: tuple[Callable[[_Context], SettingError | None], ...] = (
    _quantized_full_tuning, _half_precision_full_tuning, _sharded_model, _quantization_library, _sft_adapter,
    _injection, _retriever, _msl, _llm_preset, _llm_path, _without_effect)
