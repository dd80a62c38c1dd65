"""YAML is plain data: no code, no repeated keys, no aliases, no surprising scalars."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.config import yaml_files
from recbole_soft.config.yaml_files import load_yaml, parse_value, properties_root
from recbole_soft.errors import SettingError

SCALARS = [
    ("1e-4", 1e-4), ("1E5", 1e5), ("-.5", -0.5), ("3", 3), ("-3", -3), ("0", 0), ("1_000", 1000), ("2.", 2.0),
    ("true", True), ("False", False), ("no", "no"), ("on", "on"), ("y", "y"), ("010", "010"), ("0x10", "0x10"),
    ("1:30", "1:30"), ("2024-01-02", "2024-01-02"), ("None", None), ("null", None), ("~", None), (".inf", math.inf),
    ("-.inf", -math.inf), ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"), ("'5'", "5"), ('"a b"', "a b"), ("e5", "e5"),
    (".", "."), ("[1, 2.5, x]", [1, 2.5, "x"]), ("{'a': [1]}", {"a": [1]}), ("7e", "7e"), ("nullable", "nullable"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_files_and_command_line_read_a_scalar_alike(tmp_path, text, value):
    path = tmp_path / "a.yaml"
    path.write_text(f"key: {text}\n")
    for read in (load_yaml(path).values["key"], parse_value(text)):
        assert read == value and type(read) is type(value)


@pytest.mark.parametrize("text", [
    "__import__('os').system('touch /tmp/never')", "a: b", "# remark", "*alias", "&anchor x", "!!python/name:os.system",
    "- x", "[1, 2", "{a", "[&a 1, *a]", "'open", "lambda: 0", "1-2", "%x", "@x", "a # b", "  ", "",
])
def test_text_that_is_no_value_stays_text(text):
    assert parse_value(text) == text


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_read_without_an_error(text):
    assert isinstance(parse_value(text), (str, int, float, bool, list, dict, type(None)))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.integers(-10**15, 10**15), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_printed_numbers_come_back(value):
    read = parse_value(str(value))
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(("text", "line", "word"), [
    ("a: 1\nb: 2\na: 3\n", 3, "'a' is written twice"),
    ("a:\n  x: 1\n  x: 2\n", 3, "'x' is written twice"),
    ("a: &big [1, 2]\nb: *big\n", 1, "anchors"),
    ("a: 1\nb: *a\n", 2, "anchors"),
    ("a: !!python/object/apply:os.system ['true']\n", 1, "python"),
    ("a: [1, 2\n", 2, ""),
    ("a: 1\n---\nb: 2\n", 2, ""),
    ("- a\n- b\n", 1, "key: value"),
    ("just text\n", 1, "key: value"),
])
def test_refusals_name_file_and_line(tmp_path, text, line, word):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=rf"mine\.yaml, line {line}\b") as refusal:
        load_yaml(path)
    assert word in str(refusal.value)


def test_bomb_of_aliases_is_refused_at_once(tmp_path):
    path = tmp_path / "bomb.yaml"
    rows = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path.write_text("\n".join(rows))
    start = time.perf_counter()
    with pytest.raises(SettingError, match="anchors"):
        load_yaml(path)
    assert time.perf_counter() - start < 1


def test_merge_key_is_no_shortcut(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("<<: {epochs: 5}\nseed: 1\n")
    assert load_yaml(path).values == {"<<": {"epochs": 5}, "seed": 1}


@pytest.mark.parametrize("content", [b"a: \xff\n", b"a: \x00\n", b"a: " + b"[" * 1000 + b"\n", b"1: x\n",
                                     b"? [a]\n: 1\n", b"a: !!int x\n"])
def test_odd_files_are_user_errors(tmp_path, content):
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=r"odd\.yaml"):
        load_yaml(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(SettingError, match=r"not found(.|\n)*nothing\.yaml"):
        load_yaml(tmp_path / "nothing.yaml")
    with pytest.raises(SettingError, match="cannot be read"):
        load_yaml(tmp_path)


def test_empty_file_is_an_empty_mapping_and_lines_are_known(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# nothing\n")
    assert load_yaml(path).values == {}
    path.write_text("# remark\nepochs: 3\n\ntopk: [5]\n")
    file = load_yaml(path)
    assert file.lines == {"epochs": 2, "topk": 4}
    assert file.place("topk") == f"{path}, line 4"


def test_properties_lie_in_the_package_or_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "package"
    monkeypatch.setattr(yaml_files, "PACKAGE_DIR", package)
    with pytest.raises(SettingError) as refusal:
        properties_root()
    assert str(package / "properties") in str(refusal.value) and str(tmp_path / "properties") in str(refusal.value)
    (tmp_path / "properties").mkdir()
    assert properties_root() == tmp_path / "properties"
    (package / "properties").mkdir(parents=True)
    assert properties_root() == package / "properties"


def test_all_that_embed_text_have_the_same_embedded_model():
    """LLM-CF has no preset of a language model to take it from."""
    ours, theirs = ({name: value for name, value in load_yaml(properties_root() / file).values.items()
                     if name.startswith("tiny_")} for file in ("llm/tiny.yaml", "model/LLMCF.yaml"))
    assert ours == theirs and len(ours) > 5
