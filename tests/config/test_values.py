"""Values become the type their setting calls for, or the message says what is allowed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.config.recbole_keys import recbole_defaults, typed_settings
from recbole_soft.config.schema import SETTINGS, Setting
from recbole_soft.config.values import convert, describe_allowed, describe_briefly, shown


def setting(kind: str, default=0, **limits) -> Setting:
    return Setting("it", kind, default, "help", **limits)


@pytest.mark.parametrize(("kind", "value", "expected"), [
    ("int", "4096", 4096), ("int", 7, 7), ("float", "1e-4", 1e-4), ("float", 16, 16.0), ("bool", "True", True),
    ("bool", "false", False), ("bool", True, True), ("count|full", "full", "full"), ("count|full", "12", 12),
    ("str", "5", "5"), ("str", 2024, "2024"), ("str", "None", "None"), ("path", "~/x", os.path.expanduser("~/x")),
    ("list", "q_proj,v_proj", ["q_proj", "v_proj"]), ("list", "[q, v]", ["q", "v"]), ("list", "q", ["q"]),
    ("list", ("a", "b"), ["a", "b"]), ("list[int]", "5,10", [5, 10]), ("list[int]", 5, [5]),
    ("list[int]", "[1,5]", [1, 5]), ("dict", "{'a': 1}", {"a": 1}),
])
def test_convert(kind, value, expected):
    converted = convert(setting(kind), value)
    assert converted == expected and type(converted) is type(expected)


@pytest.mark.parametrize(("kind", "value", "limits"), [
    ("int", "4.5", {}), ("int", True, {}), ("int", "", {}), ("int", None, {}), ("int", "0", {"low": 1}),
    ("int", "x", {}), ("float", "nan", {}), ("float", ".inf", {}), ("float", 0, {"above": 0}), ("float", False, {}),
    ("float", 1.5, {"low": 0, "high": 1}), ("bool", "yes", {}), ("bool", 1, {}), ("count|full", 0, {}),
    ("count|full", "half", {}), ("count|full", -1, {}), ("str", 1.5, {}), ("str", "  ", {}), ("str", [1], {}),
    ("str", "LoRA", {"choices": ("lora", "full")}), ("list", "[a", {}), ("list", [], {}), ("list", [1.5], {}),
    ("list[int]", "1,x", {}), ("list[int]", [5, 0], {"low": 1}), ("dict", "[1]", {}), ("dict", "x", {}),
    ("list", "a,z", {"choices": ("a", "b")}),
])
def test_refused_values_say_what_is_allowed(kind, value, limits):
    it = setting(kind, **limits)
    with pytest.raises(ValueError, match=r"^must be ") as refusal:
        convert(it, value)
    assert str(refusal.value) == f"must be {describe_allowed(it)}"


@pytest.mark.parametrize("value", [None, "None", "null", "~"])
def test_settings_without_a_default_can_be_unset(value):
    assert convert(setting("int", default=None), value) is None


def test_case_matters_unless_the_setting_says_otherwise():
    it = setting("str", choices=("adam", "sgd"), ignore_case=True)
    assert convert(it, "Adam") == "Adam"
    with pytest.raises(ValueError, match="one of adam, sgd"):
        convert(it, "adm")


def test_descriptions():
    assert describe_allowed(setting("int", low=1)) == "an integer from 1 up"
    assert describe_allowed(setting("float", low=0, high=1)) == "a number between 0 and 1"
    assert describe_allowed(setting("float", default=None, above=0)) == "a number above 0, or None"
    assert describe_briefly(setting("float", above=0, high=1)) == "> 0, <= 1"
    assert describe_briefly(setting("str", choices=("a", "b"))) == "a|b"
    assert describe_briefly(setting("bool")) == ""


def test_long_values_are_cut_in_messages():
    assert len(shown("x" * 1000)) < 100 and shown("abc") == "abc" and shown(" ") == "' '"


def test_every_default_of_ours_is_a_valid_value():
    for it in SETTINGS:
        assert convert(it, it.default) == it.default


def test_every_default_of_recbole_is_a_valid_value_and_still_recboles():
    actual = recbole_defaults("SASRec")
    overridden = {"eval_args", "repeatable", "load_col", "train_neg_sample_args"}
    for it in typed_settings():
        convert(it, actual[it.name])
        assert it.name in overridden or actual[it.name] == it.default, it.name


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12), st.sampled_from(SETTINGS))
def test_text_is_converted_or_refused_but_never_anything_else(text, it):
    try:
        value = convert(it, text)
    except ValueError as error:
        assert str(error) == f"must be {describe_allowed(it)}"
    else:
        assert convert(it, value) == value
