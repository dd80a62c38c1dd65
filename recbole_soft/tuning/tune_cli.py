"""The `tune` subcommand: words to a search. Checks everything before RecBole, torch and Optuna are imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from recbole_soft.config.sources import split_config_files, user_settings
from recbole_soft.config.validate import validate
from recbole_soft.config.words import count, parse_words
from recbole_soft.config.yaml_files import properties_root
from recbole_soft.errors import SettingError
from recbole_soft.registry import MODELS, is_llm_name
from recbole_soft.tuning.fit import fit_space
from recbole_soft.tuning.search import Search, run_search
from recbole_soft.tuning.space import read_space, space_file
from recbole_soft.tuning.study import require_optuna

EXAMPLE = "python run_recbole_soft.py tune --model=BIGRec_SOFT --dataset=ml-100k"
# Models of RecBole that count or compare in place of training: the usual spaces hold rates of training alone.
UNTRAINED = ("Pop", "Random", "ItemKNN", "AsymKNN")
OPTIONS = ("space", "trials", "study", "search_seed")
HELP = f"""Searches for settings on the validation windows; the test windows are not read.

  --model, --dataset, --config_files and any setting as in a run; a setting that is given is not searched
  --space=NAME|FILE   what is searched: a YAML file, or one of properties/search: {{spaces}}
                      (default: the model's own, else llm or traditional)
  --trials=N          trials of the whole search (default: the space's); more than before prolongs a search
  --study=NAME        folder under checkpoint_dir/tune (default: made from settings and space)
  --search_seed=N     seed of the search (default: 42); the same search twice has the same trials

The same command goes on with a search that was interrupted. Needs Optuna: pip install "recbole_soft[tune]"

examples:
  {EXAMPLE}
  {EXAMPLE} --space=alpha_grid
  python run_recbole_soft.py tune --model=SASRec --dataset=ml-100k --trials=30 --epochs=50
"""


def main(argv: Sequence[str]) -> int:
    """Runs the subcommand; returns the exit code.

    Raises:
        UserError: an option, a setting or the search space is wrong, or Optuna is missing.
    """
    if not argv or {"-h", "--help"} & set(argv):
        known = ", ".join(path.stem for path in sorted((properties_root() / "search").glob("*.yaml")))
        sys.stdout.write(HELP.format(spaces=known))
        return 0
    search = _search(argv)
    require_optuna()
    from recbole_soft.run_log import quiet_libraries

    quiet_libraries()
    best, _ = run_search(search)
    return 0 if best is not None else 1


def _search(argv: Sequence[str]) -> Search:
    command_line = parse_words(argv)
    options = {key: command_line.pop(key) for key in OPTIONS if key in command_line}
    words = [word for word in argv if word[2:].partition("=")[0].replace("-", "_") not in OPTIONS]
    config_files = split_config_files(command_line.pop("config_files", ""))
    settings, sources = user_settings(config_files, {}, command_line)
    for key in ("model", "dataset"):
        if not isinstance(settings.get(key), str) or not settings[key]:
            raise SettingError(f"--{key} is missing", "command line", f"for example {EXAMPLE}")
        command_line.pop(key, None)
    model, dataset = settings["model"], settings["dataset"]
    typed = validate(settings, sources, model, dataset)
    if model in UNTRAINED and "space" not in options:
        raise SettingError(f"{model} is not trained: neither learning_rate nor weight_decay changes it", "--model",
                           "give a space of settings that it has: --space=FILE")
    base = MODELS[model].based_on if model in MODELS else None
    space = read_space(space_file(options.get("space"), model, base, is_llm_name(model)))
    if "trials" in options:
        space = replace(space, trials=count(options, "trials"))
    elif space.sampler == "grid":
        space = replace(space, trials=sum(1 for _ in space.grid()))
    fitted, left_out = fit_space(space, model, dataset, typed, sources)
    name = options.get("study")
    if name is not None and (not name or name in (".", "..") or "/" in name):
        raise SettingError(f"study = '{name}' is not the name of a folder", "command line", "give a plain name")
    return Search(model, dataset, config_files, command_line, words, fitted, left_out, name,
                  count(options, "search_seed", 0) if "search_seed" in options else 42)
