"""The architecture as tests: direction of imports, who may import what, size of files and functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "recbole_soft"
FILES = sorted(PACKAGE.rglob("*.py"))

# Lower layers first; a module may import from its own layer (unless it is a set of siblings) and from lower ones.
LAYERS: list[set[str]] = [
    {"errors", "compat", "artifacts", "resuming", "parallel", "statistics", "engines"},
    {"registry", "config"},
    {"data"},
    {"prompts"},
    {"llm"},
    {"grounding", "grounded_ranks"},
    {"losses", "curriculum", "distill", "demos", "rank_losses", "teacher", "engine_exchange"},
    {"models"},
    {"strategies"},
    {"trainer"},
    {"evaluation", "reporting"},
    {"plugin", "run_log", "run_folders", "companions", "validation_only"},
    {"run", "recommend"},
    {"cli", "cli_help", "export_teacher", "benchmark", "recommend_cli", "demo", "tuning",
     "distill_cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Pure leaves that lower layers may use: text only, no behaviour of their own.
LEAVES = {"recbole_soft.config.schema", "recbole_soft.config.source_reading"}
SIBLINGS = ({"losses", "curriculum", "distill", "demos", "rank_losses", "teacher", "engine_exchange"},
            {"evaluation", "reporting"})
ONLY_IN_LLM = {"transformers", "peft", "bitsandbytes", "tokenizers"}
NO_TORCH = {"config", "prompts", "errors", "registry", "artifacts", "distill", "curriculum", "cli", "cli_help",
            "statistics", "engines", "engine_exchange"}


def imports_of(path: Path) -> set[str]:
    """Modules a file imports anywhere, except for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def identify(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_there_is_something_to_check():
    assert len(FILES) > 40 and {part_of(path) for path in FILES} - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_imports_point_downwards(path):
    part = part_of(path)
    if part == "__init__":
        return
    for module in imports_of(path):
        pieces = module.split(".")
        if pieces[0] != "recbole_soft" or len(pieces) < 2 or pieces[1] not in LEVEL:
            continue
        other = pieces[1]
        if any(module == leaf or module.startswith(leaf + ".") for leaf in LEAVES):
            continue
        if module == "recbole_soft.config" and part == "registry":
            continue  # the package of the leaves above
        assert LEVEL[other] <= LEVEL[part], f"{part} may not import {module}"
        is_sibling = any({part, other} <= group and part != other for group in SIBLINGS)
        assert not is_sibling, f"siblings {part} and {other} may not know each other"


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_third_parties_stay_where_they_belong(path):
    roots = {module.split(".")[0] for module in imports_of(path)}
    if part_of(path) != "llm":
        assert not roots & ONLY_IN_LLM
    assert "ray" not in roots
    if path.name != "plots.py":
        assert "matplotlib" not in roots
    if identify(path) != "demo/page.py":
        assert "gradio" not in roots
    if path.name != "study.py":
        assert not roots & {"optuna", "sqlalchemy"}
    if part_of(path) in NO_TORCH and path.name not in {"soft_config.py"}:
        assert "torch" not in roots


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_files_and_functions_stay_small_and_documented(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert source.count("\n") <= 300
    assert path.name == "__init__.py" or ast.get_docstring(tree), "a module says what it does"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"
            arguments = [a for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
            assert len(arguments) <= 9, f"{node.name} takes too many arguments"
    public = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
              and not node.name.startswith("_")]
    for node in public:
        assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_only_run_composes():
    """Data, models, trainers and reports meet in one module."""
    for path in FILES:
        parts = {module.split(".")[1] for module in imports_of(path) if module.startswith("recbole_soft.")}
        if {"trainer", "evaluation", "reporting"} <= parts:
            assert identify(path) == "run.py"
