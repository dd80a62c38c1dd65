"""Names of models, strategies and schedules, read from their source files without importing them.

A component is a top-level class with a literal class attribute `name` (for strategies and schedules, also
derived from `Strategy` or `Schedule`). Its one-line summary is the first line of its docstring, its settings
are the literal `settings = (Setting(...), ...)` of its body (or of a base class in the same folder). Adding a
component means adding a file: nothing is registered by hand.

Deliberately ignorant of torch and RecBole: `--help` and the checks of settings answer from here in
milliseconds, and a broken installation of either cannot hide the names.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from recbole_soft.config.schema import Setting
from recbole_soft.config.source_reading import (
    Classes,
    derives,
    inherited_attribute,
    literal,
    literal_settings,
    own_attribute,
    top_level_classes,
)
from recbole_soft.errors import SettingError, nearest

PACKAGE_DIR = Path(__file__).resolve().parent
LLM_FAMILY = "llm"
TRADITIONAL_FAMILY = "traditional"
RECBOLE_FAMILY = "recbole"


@dataclass(frozen=True)
class Component:
    """One model, strategy or schedule.

    Attributes:
        name: what the user types.
        module: dotted module that defines the class.
        class_name: name of the class in that module.
        summary: first line of the class docstring.
        settings: settings that exist only for this component.
        family: for models, `llm` (combined with a strategy) or `traditional` (stands alone).
        based_on: for traditional models, the RecBole model whose settings and defaults they have.
        path: source file; not part of what makes two components equal.
    """

    name: str
    module: str
    class_name: str
    summary: str = ""
    settings: tuple[Setting, ...] = ()
    family: str = LLM_FAMILY
    based_on: str | None = None
    path: Path | None = field(default=None, compare=False, repr=False)

    def load(self) -> type:
        """Import the module and return the class."""
        return getattr(importlib.import_module(self.module), self.class_name)


class Registry:
    """Components found in one folder (one per file) or one file, by name.

    Args:
        kind: `model`, `strategy` or `schedule`; used in messages.
        source: folder or file that holds the classes; need not exist yet.
        package: dotted name of `source`.
        base: class that a component must derive from, directly or not; None takes every named class.
    """

    def __init__(self, kind: str, source: Path, package: str, base: str | None = None):
        self.kind, self.source, self.package, self.base = kind, source, package, base

    def __getitem__(self, name: str) -> Component:
        if name not in self._components:
            raise SettingError(f"no {self.kind} is called '{name}'", remedy=nearest(name, self._components))
        return self._components[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._components

    def __iter__(self) -> Iterator[str]:
        return iter(self._components)

    def __len__(self) -> int:
        return len(self._components)

    def names(self) -> list[str]:
        """All names, in the order of file names."""
        return list(self._components)

    def components(self) -> list[Component]:
        """All components, in the order of `names()`."""
        return list(self._components.values())

    @cached_property
    def _components(self) -> dict[str, Component]:
        classes: dict[str, tuple[ast.ClassDef, Path]] = {}
        for path in sorted(self.source.glob("*.py")) if self.source.is_dir() else [self.source]:
            for node in top_level_classes(path):
                classes[node.name] = (node, path)
        nodes = {name: node for name, (node, _) in classes.items()}
        found: dict[str, Component] = {}
        for node, path in classes.values():
            component = self._component(node, path, nodes)
            if component is None:
                continue
            if component.name in found:
                other = found[component.name]
                raise SettingError(f"two {self.kind} classes are called '{component.name}'",
                                   f"{other.module}.{other.class_name} and {component.module}.{node.name}",
                                   "give one of them another `name`")
            found[component.name] = component
        return found

    def _component(self, node: ast.ClassDef, path: Path, classes: Classes) -> Component | None:
        name = literal(own_attribute(node, "name"))
        if not isinstance(name, str) or not name:
            return None
        if self.base is not None and not derives(node, self.base, classes):
            return None
        declared = inherited_attribute(node, "settings", classes)
        family = literal(inherited_attribute(node, "family", classes))
        return Component(
            name=name,
            module=self.package if path == self.source else f"{self.package}.{path.stem}",
            class_name=node.name,
            summary=(ast.get_docstring(node) or "").split("\n", 1)[0],
            settings=literal_settings(declared, path),
            family=family or LLM_FAMILY,
            based_on=literal(inherited_attribute(node, "based_on", classes)),
            path=path,
        )


MODELS = Registry("model", PACKAGE_DIR / "models", "recbole_soft.models")
STRATEGIES = Registry("strategy", PACKAGE_DIR / "strategies", "recbole_soft.strategies", base="Strategy")
SCHEDULES = Registry("schedule", PACKAGE_DIR / "curriculum.py", "recbole_soft.curriculum", base="Schedule")


def llm_names() -> list[str]:
    """Every MODEL_STRATEGY, models outermost."""
    return [f"{model.name}_{strategy}" for model in MODELS.components() if model.family == LLM_FAMILY
            for strategy in STRATEGIES]


def traditional_names() -> list[str]:
    """Our models that train without a language model, as RecBole's do."""
    return [model.name for model in MODELS.components() if model.family == TRADITIONAL_FAMILY]


def split_name(name: str) -> tuple[Component, Component]:
    """Take MODEL_STRATEGY apart: `BIGRec_SOFT_woSA` is the model BIGRec trained with SOFT_woSA.

    Raises:
        SettingError: unknown model or strategy; the remedy names the nearest.
    """
    prefixes = [model for model in MODELS if name == model or name.startswith(f"{model}_")]
    prefixes.sort(key=len, reverse=True)
    for model in prefixes:
        strategy = name[len(model) + 1:]
        if MODELS[model].family == LLM_FAMILY and strategy in STRATEGIES:
            return MODELS[model], STRATEGIES[strategy]
    if not prefixes:
        raise SettingError(f"no model is called '{name}'", "--model", nearest(name, _all_model_names()))
    model, strategy = prefixes[0], name[len(prefixes[0]) + 1:]
    if MODELS[model].family == TRADITIONAL_FAMILY:
        relatives = [other for other in traditional_names() if other.startswith(f"{model}_")]
        raise SettingError(f"{model} takes no strategy", f"--model={name}",
                           "use " + " or ".join(f"--model={known}" for known in (model, *relatives)))
    if not strategy:
        raise SettingError(f"{model} needs a strategy", f"--model={name}",
                           "use " + " or ".join(f"--model={model}_{known}" for known in STRATEGIES))
    raise SettingError(f"no strategy is called '{strategy}'", f"--model={name}",
                       nearest(strategy, STRATEGIES))


def is_llm_name(name: str) -> bool:
    """Whether `name` is one of `llm_names()`."""
    return name in llm_names()


def model_family(name: str) -> str:
    """`llm`, `traditional` or `recbole`.

    Raises:
        SettingError: `name` is none of ours and none of RecBole's.
    """
    if name in traditional_names():
        return TRADITIONAL_FAMILY
    if name in recbole_model_names():
        return RECBOLE_FAMILY
    split_name(name)
    return LLM_FAMILY


def _all_model_names() -> list[str]:
    return llm_names() + traditional_names() + recbole_model_names()


def recbole_dir() -> Path:
    """Folder of the installed RecBole, found without importing it."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise SettingError("RecBole is not installed", remedy='pip install "recbole>=1.2.0,<1.3"')
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def recbole_model_files() -> dict[str, Path]:
    """RecBole's sequential models and Pop: class name -> source file."""
    models = recbole_dir() / "model"
    files = sorted((models / "sequential_recommender").glob("*.py"))
    files.append(models / "general_recommender" / "pop.py")
    return {node.name: path for path in files for node in top_level_classes(path)
            if node.name.lower() == path.stem}


def recbole_model_names() -> list[str]:
    """Names of RecBole's models that can be evaluated on the same windows."""
    return list(recbole_model_files())
