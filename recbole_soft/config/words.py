"""Words of a command line as options; says what is wrong with a word and how it should read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from recbole_soft.errors import SettingError, nearest

EXAMPLE = "python run_recbole_soft.py --model=BIGRec_SOFT --dataset=game"
_OPTION = re.compile(r"--([A-Za-z]\w*(?:-\w+)*)=(.*)\Z", re.DOTALL)
_BARE_OPTION = re.compile(r"--([A-Za-z][\w-]*)\Z")
# People copy commands from documents that turn two hyphens into a dash, forget one, or forget both.
_NEARLY_OPTION = re.compile(r"[-\u2010-\u2015]*([A-Za-z][\w-]*)(?:=(.*))?\Z", re.DOTALL)


def parse_options(argv: Sequence[str], known: Iterable[str], defaults: Mapping[str, str], command: str,
                  example: str) -> dict[str, str]:
    """The options of a subcommand that has no others than `known`.

    Args:
        defaults: value of an option that is not given; one without a default is then not in the result.
        command: its name, for messages.
        example: of its use, for messages.

    Raises:
        SettingError: a malformed word, an option that comes twice or is unknown; names the nearest known one.
    """
    options, names = parse_words(argv), list(known)
    for key in options:
        if key not in names:
            raise SettingError(f"--{key} is not an option of {command}", "command line",
                               f"{nearest(key, names)} For example: {example}")
    return {**defaults, **options}


def listed(text: str) -> list[str]:
    """Entries of `A,B` or `[A, B]`."""
    return [part.strip() for part in text.strip("[]").split(",") if part.strip()]


def is_yes(options: Mapping[str, str], key: str) -> bool:
    """Whether an option of a subcommand is True; one that is missing or empty is not.

    Raises:
        SettingError: it is neither True nor False.
    """
    text = options.get(key, "")
    if text.lower() not in ("true", "false", ""):
        raise SettingError(f"{key} = {text}: must be True or False", f"--{key}", f"for example --{key}=True")
    return text.lower() == "true"


def count(options: Mapping[str, str], key: str, low: int = 1) -> int:
    """An option of a subcommand as an integer.

    Raises:
        SettingError: it is none, or below `low`.
    """
    if not options[key].isdecimal() or int(options[key]) < low:
        raise SettingError(f"{key} = {options[key]}: must be an integer from {low} up", f"--{key}",
                           f"for example --{key}=20")
    return int(options[key])


def parse_words(words: Sequence[str]) -> dict[str, str]:
    """`--key=value` words as a dictionary; the value is everything after the first `=`, a hyphen in a key is `_`.

    Raises:
        SettingError: a word has another form, or a key comes twice; the remedy is the corrected form.
    """
    values: dict[str, str] = {}
    position = 0
    while position < len(words):
        word = "--resume=True" if words[position] == "--resume" else words[position]
        match = _OPTION.match(word)
        if match is None:
            following = words[position + 1] if position + 1 < len(words) else None
            raise SettingError(f"'{word}' is not of the form --key=value", "command line",
                               _corrected(word, following))
        key, value = match[1].replace("-", "_"), match[2]
        if key in values:
            raise SettingError(f"--{key} is given twice: {values[key]!r} and {value!r}", "command line",
                               "give it once")
        values[key] = value
        position += 1
    return values


def _corrected(word: str, following: str | None) -> str:
    nearly = _NEARLY_OPTION.match(word)
    if nearly is None:
        return f"for example {EXAMPLE} --epochs=5"
    key, value = nearly.groups()
    if value is None and _BARE_OPTION.match(word):
        has_value = following is not None and not following.startswith("-")
        value = following if has_value else "True"
    return f"write --{key}={'VALUE' if value is None else value}"
