"""Text of `--help`: models, strategies, data sets and every setting, laid out in 100 columns.

Everything comes from the registry and the schema, so it cannot fall behind them. Imports neither torch nor
RecBole, which is why it answers at once.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from recbole_soft.config import recbole_keys
from recbole_soft.config.schema import SETTINGS, Setting
from recbole_soft.config.values import describe_briefly
from recbole_soft.config.yaml_files import properties_root
from recbole_soft.errors import SettingError
from recbole_soft.registry import (
    LLM_FAMILY,
    MODELS,
    SCHEDULES,
    STRATEGIES,
    Component,
    recbole_model_names,
)

WIDTH = 100
_NAME_WIDTH = 24
_DEFAULT_WIDTH = 12

_USAGE = """\
Sequential recommendation with fine-tuned language models, on RecBole.

usage:
  python run_recbole_soft.py --model=MODEL --dataset=NAME [--key=value ...]
  python run_recbole_soft.py --model=MODEL --dataset=NAME --config_files=a.yaml,b.yaml
  python run_recbole_soft.py prepare --help      atomic files from raw Amazon files
  python run_recbole_soft.py plot --run=saved/RUN   picture of tau, d_t and the losses of a run
  python run_recbole_soft.py benchmark --help    models x data sets x seeds, and their table
  python run_recbole_soft.py compare --help      the same table from finished runs
  python run_recbole_soft.py report --help       HTML page about finished runs
  python run_recbole_soft.py export-teacher --help  lists and vectors of an LLM run, for DLLM2Rec
  python run_recbole_soft.py recommend --help    what a finished run recommends
  python run_recbole_soft.py demo --help         a local page that shows it for several runs
  python run_recbole_soft.py tune --help         settings searched on validation
  python run_recbole_soft.py distill --help      SOFT's self-distillation by vLLM, through files
  python run_recbole_soft.py --help | --version

examples:
  python run_recbole_soft.py --model=BIGRec_SOFT --dataset=game
  python run_recbole_soft.py --model=BIGRec_SFT --dataset=game --llm_path=meta-llama/Llama-3.2-3B
  python run_recbole_soft.py --model=SASRec --dataset=game --learning_rate=1e-3
"""


def help_text() -> str:
    """The whole help."""
    llm_models = [model for model in MODELS.components() if model.family == LLM_FAMILY]
    traditional = [model for model in MODELS.components() if model.family != LLM_FAMILY]
    parts = [
        _USAGE,
        _heading("MODEL = LLM method and strategy, joined by _ (BIGRec_SOFT)"),
        _listed("methods", llm_models),
        _listed("strategies", STRATEGIES.components()),
        _heading("MODEL = other recommender, no strategy"),
        _listed("ours", traditional),
        _names("RecBole's", recbole_model_names()),
        _heading("NAME = data set"),
        _datasets(),
        _heading("Settings"),
        _paragraph("Give them as --key=value, or as `key: value` in a YAML file. Stronger wins: command "
                   "line, then files (the last one first), then properties/, then the defaults shown here."),
    ]
    for section in dict.fromkeys(setting.section for setting in SETTINGS):
        parts += [_heading(section), _rows(setting for setting in SETTINGS if setting.section == section)]
    for registry in (MODELS, STRATEGIES, SCHEDULES):
        owners: dict[tuple[Setting, ...], list[str]] = {}
        for component in registry.components():
            owners.setdefault(component.settings, []).append(component.name)
        for own, names in owners.items():
            if own:
                parts += [_heading(f"Only with {registry.kind} {', '.join(names)}"), _rows(own)]
    parts += [
        _heading("RecBole's settings"),
        _paragraph("All of RecBole's settings work too, for example --epochs=5 or --topk=[5,10]; properties/ "
                   "sets some of them anew. RecBole's defaults of the common ones:"),
        _rows(recbole_keys.typed_settings()),
        _paragraph("The rest: https://recbole.io/docs/user_guide/config_settings.html"),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def known_datasets() -> Mapping[str, str]:
    """Names of the data sets that `prepare` or properties/ know, with a line about each (may be empty)."""
    try:
        known = importlib.import_module("recbole_soft.data.sources").known_datasets()
    except ModuleNotFoundError as error:
        # Only this module itself may be missing; anything it needs may not.
        if error.name != "recbole_soft.data.sources":
            raise
        known = []
    described = dict(known) if isinstance(known, Mapping) else dict.fromkeys(known, "")
    try:
        described.update({path.stem: "" for path in sorted((properties_root() / "dataset").glob("*.yaml"))
                          if path.stem not in described})
    except SettingError:
        return described  # help must work in a broken installation, too
    return {name: str(line) if isinstance(line, str) else "" for name, line in described.items()}


def version() -> str:
    """Version of this package."""
    return str(getattr(importlib.import_module("recbole_soft"), "__version__", "unknown"))


def _heading(title: str) -> str:
    return f"\n{title}\n{'-' * len(title)}"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False,
                         break_long_words=False)


def _listed(title: str, components: Iterable[Component]) -> str:
    return _table(title, {component.name: component.summary for component in components})


def _datasets() -> str:
    note = _paragraph("Or any data set of yours in RecBole's atomic files: dataset/NAME/NAME.inter and "
                      "NAME.item.")
    return "\n".join(part for part in (_table("known", known_datasets()), note) if part)


def _table(title: str, rows: Mapping[str, str]) -> str:
    lines = [f"  {title}:"] if rows else []
    for name, line in rows.items():
        lines.append(_hanging(f"    {name:<{_NAME_WIDTH - 3}} ", line, _NAME_WIDTH + 2))
    return "\n".join(lines)


def _names(title: str, names: list[str]) -> str:
    lines = textwrap.wrap(", ".join(names), WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([f"  {title}:", *lines])


def _rows(settings: Iterable[Setting]) -> str:
    return "\n".join(_row(setting) for setting in settings)


def _row(setting: Setting) -> str:
    allowed = describe_briefly(setting)
    # Blanks inside the brackets must not become line breaks, unless there is a long list in them.
    note = f" [{allowed}]" if len(allowed) > WIDTH // 2 else f" [{allowed}]".replace(" ", "\0")
    about = setting.help + (note.replace("\0", " ", 1) if allowed else "")
    head = f"  {setting.name:<{_NAME_WIDTH}}{_shown(setting.default):<{_DEFAULT_WIDTH}}"
    return _hanging(head if head.endswith(" ") else head + " ", about, _NAME_WIDTH + _DEFAULT_WIDTH + 2)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list) else str(value)


def _hanging(head: str, text: str, indent: int) -> str:
    """`text` in its column beside `head`, or below it when `head` is too long."""
    blank = " " * indent
    if len(head) <= indent:
        return textwrap.fill(text, WIDTH, initial_indent=head.ljust(indent), subsequent_indent=blank,
                             break_on_hyphens=False).replace("\0", " ").rstrip() if text else head.rstrip()
    return f"{head.rstrip()}\n" + _hanging("", text, indent)
