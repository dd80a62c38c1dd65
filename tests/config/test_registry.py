"""Components are found in their source, and names are taken apart or refused with the nearest."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.config.schema import Setting
from recbole_soft.errors import SettingError
from recbole_soft.registry import (
    MODELS,
    SCHEDULES,
    STRATEGIES,
    Component,
    Registry,
    is_llm_name,
    llm_names,
    model_family,
    recbole_model_names,
    split_name,
    traditional_names,
)


def write(folder: Path, **sources: str) -> Registry:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    return Registry("model", folder, "somewhere")


def test_component_is_read_from_its_source(stub_components):
    assert MODELS["StubRec"] == Component(
        "StubRec", "soft_stub_components.models", "StubRec", "Grounds by guessing.",
        (Setting("guesses", "int", 3, "how many guesses", low=1),), "llm")
    assert MODELS["Classic"].family == "traditional"
    assert MODELS.names() == ["StubRec", "StubRec_X", "Classic"]
    assert list(MODELS) == MODELS.names() and len(MODELS) == 3 and "StubRec" in MODELS


def test_settings_are_inherited_unless_the_class_has_its_own(stub_components):
    assert MODELS["StubRec_X"].settings == MODELS["StubRec"].settings
    assert STRATEGIES["SOFT_woSA"].settings == ()


def test_named_class_that_is_no_strategy_is_left_out(stub_components):
    assert STRATEGIES.names() == ["SFT", "SOFT", "SOFT_woSA"]


def test_reading_a_file_does_not_run_it(tmp_path):
    registry = write(tmp_path, evil='raise SystemExit\nclass A:\n    name = "A"\n')
    assert registry.names() == ["A"]
    assert registry["A"].module == "somewhere.evil"


def test_order_is_that_of_file_names(tmp_path):
    registry = write(tmp_path, b='class B:\n    name = "B"\n', a='class Z:\n    name = "Z"\n')
    assert registry.names() == ["Z", "B"]


def test_missing_folder_is_an_empty_registry(tmp_path):
    assert Registry("model", tmp_path / "nowhere", "nowhere").names() == []


def test_duplicate_name_names_both_classes(tmp_path):
    registry = write(tmp_path, a='class One:\n    name = "X"\n', b='class Two:\n    name = "X"\n')
    with pytest.raises(SettingError, match=r"'X'(.|\n)*somewhere\.a\.One and somewhere\.b\.Two"):
        registry.names()


@pytest.mark.parametrize("declared", [
    "make()", "(Setting('a', 'int', default(), 'h'),)", "(Other('a'),)", "(Setting('a', 'int', 1, 'h', colour=2),)",
])
def test_settings_that_are_no_literals_are_refused_with_their_line(tmp_path, declared):
    registry = write(tmp_path, a=f'class A:\n    name = "A"\n    settings = {declared}\n')
    with pytest.raises(SettingError, match=r"a\.py, line 3"):
        registry.names()


@pytest.mark.parametrize(("name", "parts"), [
    ("StubRec_SFT", ("StubRec", "SFT")),
    ("StubRec_SOFT_woSA", ("StubRec", "SOFT_woSA")),
    ("StubRec_X_SOFT", ("StubRec_X", "SOFT")),
])
def test_split_name(stub_components, name, parts):
    assert tuple(component.name for component in split_name(name)) == parts
    assert is_llm_name(name) and model_family(name) == "llm"


@pytest.mark.parametrize(("name", "expected"), [
    ("stubrec_soft", "did you mean StubRec_SOFT"),
    ("SASREC", "did you mean SASRec"),
    ("StubRec_SFOT", "no strategy is called 'SFOT'(.|\n)*did you mean SFT or SOFT"),
    ("StubRec", "StubRec needs a strategy(.|\n)*--model=StubRec_SFT"),
    ("Classic_SOFT", "Classic takes no strategy(.|\n)*--model=Classic"),
])
def test_wrong_names_are_answered_with_the_nearest(stub_components, name, expected):
    assert not is_llm_name(name)
    with pytest.raises(SettingError, match=expected):
        model_family(name)


def test_unknown_component_names_the_nearest_in_any_case(stub_components):
    with pytest.raises(SettingError, match=r"no strategy is called 'sft'(.|\n)*did you mean SFT"):
        STRATEGIES["sft"]


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_a_name_or_a_user_error(text):
    try:
        family = model_family(text)
    except SettingError:
        return
    assert family in ("llm", "traditional", "recbole")


def test_names_of_recbole_are_the_classes_it_exports(recbole):
    import recbole.model.sequential_recommender as sequential

    exported = {name for name, member in vars(sequential).items() if inspect.isclass(member)}
    assert set(recbole_model_names()) == exported | {"Pop"}
    assert model_family("SASRec") == model_family("Pop") == "recbole"


@pytest.mark.parametrize("registry", [MODELS, STRATEGIES, SCHEDULES], ids=lambda registry: registry.kind)
def test_source_and_imported_class_agree(registry, recbole):
    assert registry.names()
    for component in registry.components():
        loaded = component.load()
        assert loaded.name == component.name
        assert tuple(loaded.settings) == component.settings
        assert inspect.getdoc(loaded).split("\n")[0] == component.summary != ""
        assert getattr(loaded, "family", "llm") == component.family


def test_every_combination_splits_back():
    assert len(llm_names()) == len(set(llm_names())) > 0
    for name in llm_names():
        model, strategy = split_name(name)
        assert f"{model.name}_{strategy.name}" == name
    assert not set(llm_names()) & set(traditional_names() + recbole_model_names())
