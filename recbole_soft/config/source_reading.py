"""What a Python file says about its classes, read without executing any of it.

Reads names, docstrings, base classes and literal attributes by way of `ast`. Knows nothing of models or
strategies; the registry decides which classes matter.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

from recbole_soft.config.schema import Setting
from recbole_soft.errors import SettingError

Classes = dict[str, ast.ClassDef]


def top_level_classes(path: Path) -> list[ast.ClassDef]:
    """Classes of a file, in their order; none if there is no such file."""
    body = parse_source(path).body if path.is_file() else []
    return [node for node in body if isinstance(node, ast.ClassDef)]


def parse_source(path: Path) -> ast.Module:
    """Syntax tree of a Python file; nothing of it is executed."""
    with warnings.catch_warnings():
        # RecBole's docstrings hold LaTeX, which newer Pythons report as invalid escapes.
        warnings.simplefilter("ignore")
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def own_attribute(node: ast.ClassDef, attribute: str) -> ast.expr | None:
    """Expression assigned to `attribute` in the body of a class."""
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == attribute for target in targets):
            return statement.value
    return None


def inherited_attribute(node: ast.ClassDef, attribute: str, classes: Classes) -> ast.expr | None:
    """As `own_attribute`, then the base classes among `classes`."""
    own = own_attribute(node, attribute)
    if own is not None:
        return own
    for base in node.bases:
        parent = classes.get(_base_name(base))
        found = None if parent in (None, node) else inherited_attribute(parent, attribute, classes)
        if found is not None:
            return found
    return None


def derives(node: ast.ClassDef, base: str, classes: Classes) -> bool:
    """Whether a class has a base called `base`, directly or through other `classes`."""
    parents = [_base_name(parent) for parent in node.bases]
    return base in parents or any(derives(classes[parent], base, classes) for parent in parents
                                  if parent in classes and classes[parent] is not node)


def _base_name(base: ast.expr) -> str:
    return getattr(base, "id", getattr(base, "attr", ""))


def literal(node: ast.expr | None) -> Any:
    """Value of a constant; None for anything else."""
    return node.value if isinstance(node, ast.Constant) else None


def literal_settings(node: ast.expr | None, path: Path) -> tuple[Setting, ...]:
    """Evaluate `(Setting(...), ...)`.

    Raises:
        SettingError: anything in it is not a literal; file and line are named.
    """
    if node is None:
        return ()
    if not isinstance(node, (ast.Tuple, ast.List)):
        raise _not_literal(node, path)
    return tuple(_setting(call, path) for call in node.elts)


def _setting(call: ast.expr, path: Path) -> Setting:
    function = getattr(call, "func", None)
    if getattr(function, "id", getattr(function, "attr", None)) != "Setting":
        raise _not_literal(call, path)
    try:
        values = dict(zip((field.name for field in fields(Setting)), map(ast.literal_eval, call.args)))
        values.update({keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords})
        return Setting(**values)
    except (ValueError, TypeError) as error:
        raise _not_literal(call, path) from error


def _not_literal(node: ast.expr, path: Path) -> SettingError:
    return SettingError("the settings of a component must be a tuple of Setting(...) with literal arguments",
                        f"{path}, line {node.lineno}",
                        'for example settings = (Setting("alpha", "float", 1.0, "help"),)')
