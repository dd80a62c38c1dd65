"""Turn what a user wrote into the Python value a setting calls for, or say what is allowed.

Text is as good as a YAML value (`"4096"` for an int), so that command line, dictionaries and files follow one
rule. Knows the kinds of `schema.Setting`; knows no setting by name and reads no file.
"""

from __future__ import annotations

import math
import os
from typing import Any

from recbole_soft.config.schema import COUNT_OR_FULL, Setting
from recbole_soft.config.yaml_files import parse_value

FULL = "full"
_LONGEST_SHOWN = 80


def convert(setting: Setting, value: Any) -> Any:
    """Value of `setting` as its Python type.

    Args:
        setting: what is being set.
        value: text, or a value as YAML gives it.

    Raises:
        ValueError: the value is not allowed; the message is `describe_allowed(setting)`, after "must be".
    """
    if setting.default is None and (value is None or (isinstance(value, str) and _is_null_word(value))):
        return None
    try:
        converted = _CONVERTERS[setting.kind](value)
        entries = converted if isinstance(converted, list) else [converted]
        if all(_is_allowed(setting, entry) for entry in entries):
            return converted
    except _NotAllowedError:
        pass
    raise ValueError(f"must be {describe_allowed(setting)}")


def describe_allowed(setting: Setting) -> str:
    """What may be written, in words: `an integer from 1`, `one of none, 8bit, 4bit`."""
    if setting.choices and not setting.kind.startswith("list"):
        allowed = "one of " + ", ".join(setting.choices)
    else:
        allowed = _KIND_WORDS[setting.kind]
        if setting.choices:
            allowed += " of " + ", ".join(setting.choices)
        allowed += _range_words(setting)
    return allowed + (", or None" if setting.default is None else "")


def describe_briefly(setting: Setting) -> str:
    """`describe_allowed` for a line of help: choices or range, or nothing where the default says it all."""
    if setting.choices:
        return "|".join(setting.choices)
    if setting.kind == COUNT_OR_FULL:
        return "count or full"
    if setting.low is not None and setting.high is not None:
        return f"{setting.low} to {setting.high}"
    bounds = ((">=", setting.low), (">", setting.above), ("<=", setting.high))
    return ", ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)


def shown(value: Any) -> str:
    """A value as a message shows it: text as it was typed, cut where it gets long."""
    text = value if isinstance(value, str) and value.strip() else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def parsed(value: Any) -> Any:
    """Text by the rules of the YAML files, anything else as it is."""
    return parse_value(value) if isinstance(value, str) else value


def _range_words(setting: Setting) -> str:
    if setting.low is not None and setting.high is not None:
        return f" between {setting.low} and {setting.high}"
    if setting.low is not None:
        return f" from {setting.low} up"
    if setting.above is not None:
        return f" above {setting.above}" + (f", up to {setting.high}" if setting.high is not None else "")
    return f" up to {setting.high}" if setting.high is not None else ""


def _is_allowed(setting: Setting, value: Any) -> bool:
    if setting.choices is not None and value not in setting.choices:
        return setting.ignore_case and str(value).lower() in map(str.lower, setting.choices)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return True
    return ((setting.low is None or value >= setting.low)
            and (setting.high is None or value <= setting.high)
            and (setting.above is None or value > setting.above))


def _is_null_word(text: str) -> bool:
    return bool(text.strip()) and parse_value(text) is None


class _NotAllowedError(ValueError):
    """The value cannot become the kind of its setting; `convert` says what can."""


def _to_int(value: Any) -> int:
    value = parsed(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _NotAllowedError
    return value


def _to_float(value: Any) -> float:
    value = parsed(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _NotAllowedError
    return float(value)


def _to_bool(value: Any) -> bool:
    value = parsed(value)
    if not isinstance(value, bool):
        raise _NotAllowedError
    return value


def _to_str(value: Any) -> str:
    """Text as it stands. Integers are taken (a folder called 2024), floats not: `1e10` has lost its form."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise _NotAllowedError
    return value


def _to_path(value: Any) -> str:
    return os.path.expanduser(_to_str(value))


def _to_count(value: Any) -> int | str:
    if value == FULL:
        return FULL
    count = _to_int(value)
    if count < 1:
        raise _NotAllowedError
    return count


def _to_entries(value: Any) -> list[Any]:
    """A list, a tuple, `[a, b]`, `a,b` or a single entry."""
    value = parsed(value)
    if isinstance(value, str):
        if value.lstrip().startswith(("[", "{")):
            raise _NotAllowedError  # brackets that do not close
        value = [part.strip() for part in value.split(",")]
    entries = list(value) if isinstance(value, (list, tuple)) else [value]
    if not entries:
        raise _NotAllowedError
    return entries


def _to_dict(value: Any) -> dict[str, Any]:
    value = parsed(value)
    if not isinstance(value, dict):
        raise _NotAllowedError
    return dict(value)


_CONVERTERS = {
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "str": _to_str,
    "path": _to_path,
    COUNT_OR_FULL: _to_count,
    "list": lambda value: [_to_str(entry) for entry in _to_entries(value)],
    "list[int]": lambda value: [_to_int(entry) for entry in _to_entries(value)],
    "dict": _to_dict,
}

_KIND_WORDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "True or False",
    "str": "text (in quotes if it looks like a number)",
    "path": "a path",
    COUNT_OR_FULL: f"a positive integer or `{FULL}`",
    "list": "a list such as [a, b]",
    "list[int]": "a list of integers such as [5, 10]",
    "dict": "a mapping such as {a: 1}",
}
