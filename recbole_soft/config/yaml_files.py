"""Strict YAML: plain data only, every mistake named by file and line; and where `properties/` lies.

Differences from YAML 1.1 as PyYAML reads it, each because the silent reading has cost somebody a run:
`1e-4` is a float; only `true` and `false` (any of the three usual spellings) are booleans, so `no` and `on`
stay words; `010`, `1:30` and `2024-01-02` stay text; `None` means null as in RecBole's documentation; a key
written twice is an error; anchors, aliases, merge keys and Python tags are refused.

Knows nothing of which settings exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from recbole_soft.errors import SettingError

PACKAGE_DIR = Path(__file__).resolve().parent.parent

_NULL = re.compile(r"(?:~|null|Null|NULL|None|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z")
_FLOAT = re.compile(
    r"""(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z""",
    re.VERBOSE,
)


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader without anchors, aliases, merge keys, repeated keys and surprising scalars."""

    # A fresh table: PyYAML's own is shared by every loader, and RecBole changes one of them globally.
    yaml_implicit_resolvers: ClassVar[dict[str | None, list[tuple[str, re.Pattern[str]]]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(
                None, None, "anchors (&name) and aliases (*name) are not allowed; write the value out, "
                "or put it in quotes if it is text", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            problem = None
            if not isinstance(key, (str, int, float)):
                problem = f"{key!r} cannot be a key"
            elif key in mapping:
                problem = f"the key '{key}' is written twice"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


StrictLoader.add_implicit_resolver("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""])
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
StrictLoader.add_constructor(
    "tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node, deep=True))


@dataclass(frozen=True)
class YamlFile:
    """Values of one file and the line each top-level key stands in."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """`FILE, line N` of a top-level key."""
        return f"{self.path}, line {self.lines[key]}" if key in self.lines else str(self.path)


def load_yaml(path: str | Path) -> YamlFile:
    """Read a YAML mapping; an empty file is an empty mapping.

    Raises:
        SettingError: the file is missing, unreadable, not YAML, not a mapping, or uses what is refused.
    """
    path = Path(path)
    text = _read_text(path)
    loader = None
    try:
        loader = StrictLoader(text)
        node = loader.get_single_node()
        if node is None:
            return YamlFile(path)
        if not isinstance(node, yaml.MappingNode):
            raise SettingError("a settings file must hold `key: value` lines", _place(path, node.start_mark),
                               "write for example `epochs: 5`")
        values = loader.construct_document(node)
        lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    except yaml.YAMLError as error:
        raise SettingError(f"not a valid settings file: {_problem(error)}",
                           _place(path, getattr(error, "problem_mark", None)),
                           "plain `key: value` lines only; put odd text in quotes") from error
    except (ValueError, RecursionError) as error:
        raise SettingError(f"not a valid settings file: {type(error).__name__} while reading a value",
                           str(path), "plain `key: value` lines only") from error
    finally:
        if loader is not None:
            loader.dispose()
    for key in values:
        if not isinstance(key, str):
            raise SettingError(f"the key {key!r} is not a word", str(path),
                               "settings have names such as `epochs`")
    return YamlFile(path, values, lines)


def parse_value(text: str) -> Any:
    """Value of a command-line or dictionary string by the rules of the YAML files; nothing is evaluated.

    `[1, 2]` and `{a: 1}` become collections, `3`, `1e-4`, `true`, `None` become what they say, quotes are
    taken off, and everything else stays the text it is.
    """
    stripped = text.strip()
    is_quoted = len(stripped) > 1 and stripped[0] in "'\"" and stripped[-1] == stripped[0]
    if is_quoted or stripped.startswith(("[", "{")):
        try:
            return yaml.load(stripped, Loader=StrictLoader)  # noqa: S506  a SafeLoader that allows less
        except (yaml.YAMLError, ValueError, RecursionError):
            return text
    for pattern, convert in ((_BOOL, lambda word: word.lower() == "true"), (_INT, int), (_FLOAT, _to_float)):
        if pattern.match(stripped) and len(stripped) < 100:
            return convert(stripped)
    return None if stripped and _NULL.match(stripped) else text


def properties_root() -> Path:
    """Folder of the shipped YAML: inside the package (wheel) or beside it (checkout).

    Raises:
        SettingError: neither exists; both places are named.
    """
    places = (PACKAGE_DIR / "properties", PACKAGE_DIR.parent / "properties")
    for place in places:
        if place.is_dir():
            return place
    raise SettingError("the folder `properties` of recbole_soft is missing",
                       f"looked in {places[0]} and {places[1]}",
                       "install again: pip install --force-reinstall recbole_soft")


def _to_float(word: str) -> float:
    return float(word.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingError("settings file not found", str(path.absolute()),
                           "check the spelling; the path is relative to the current folder") from error
    except (IsADirectoryError, PermissionError, NotADirectoryError) as error:
        raise SettingError(f"settings file cannot be read: {error.strerror}", str(path),
                           "give a file that you may read, with --config_files=FILE.yaml") from error
    except UnicodeDecodeError as error:
        raise SettingError("settings file is not UTF-8 text", str(path), "save it as UTF-8") from error


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n", 1)[0]


def _place(path: Path, mark: yaml.Mark | None) -> str:
    return str(path) if mark is None else f"{path}, line {mark.line + 1}"
