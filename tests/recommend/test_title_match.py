"""What people type against a catalogue: found where it is clear, refused with the nearest titles where it is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.recommend.title_match import TitleMatcher, UnknownTitleError

LONG = "The Last of Us Remastered - PlayStation 4"
CATALOGUE = ("", "Toy Story (1995)", "Sabrina (1954)", "Sabrina (1995)", "Godfather, The", "FIFA 15", "Alien", "ALIEN",
             "Final Fantasy VIII", "Star Wars", "Am\u00e9lie", LONG, "Twins", "Twins")
MATCHER = TitleMatcher(CATALOGUE)


@pytest.mark.parametrize(("typed", "title"), [
    ("Star Wars", "Star Wars"), ("  star   WARS ", "Star Wars"), ("AM\u00c9LIE", "Am\u00e9lie"),
    ("Ame\u0301lie", "Am\u00e9lie"), ("star&nbsp;wars", "Star Wars"), ("Alien", "Alien"), ("ALIEN", "ALIEN"),
])
def test_case_and_space_do_not_matter_and_nothing_is_said(typed, title):
    match = MATCHER.find(typed)
    assert CATALOGUE[match.item] == title and match.note == ""


@pytest.mark.parametrize(("typed", "title"), [
    ("Toy Story", "Toy Story (1995)"), ("The Godfather", "Godfather, The"), ("Godfather, The (1972)", "Godfather, The"),
    ("star wasr", "Star Wars"), ("the last of us: remastered, playstation 4", LONG),
])
def test_what_is_clear_is_taken_and_said(typed, title):
    match = MATCHER.find(typed)
    assert CATALOGUE[match.item] == title and f"taken for '{title}'" in match.note


@pytest.mark.parametrize(("typed", "suggested"), [
    ("Sabrina", "'Sabrina (1954)' or 'Sabrina (1995)'"), ("Sabrina (1996)", "Sabrina (1995)"), ("FIFA 16", "FIFA 15"),
    ("Final Fantasy VII", "Final Fantasy VIII"), ("alien", "Alien"), ("last of us", "The Last of Us Remastered"),
    ("zzzz", "no title is near"),
])
def test_what_is_not_clear_is_refused_with_the_nearest(typed, suggested):
    with pytest.raises(UnknownTitleError) as caught:
        MATCHER.find(typed)
    assert suggested in str(caught.value)


def test_twins_are_told():
    match = MATCHER.find("twins")
    assert match.item == CATALOGUE.index("Twins") and "2 items are called" in match.note


def test_search_completes_words_and_ranks_beginnings_first():
    assert [CATALOGUE[item] for item in MATCHER.search("st")] == [
        "Star Wars", "Toy Story (1995)", LONG]
    assert [CATALOGUE[item] for item in MATCHER.search("us last")] == [LONG]
    assert MATCHER.search("  ") == [] and len(MATCHER.search("a", 2)) == 2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(min_size=1, max_size=12).map(str.strip).filter(bool), min_size=1, max_size=8, unique=True),
       st.text(max_size=12))
def test_every_title_finds_itself_and_any_text_is_answered(catalogue, text):
    from recbole_soft.data.catalog import clean_title

    cleaned = [title for title in dict.fromkeys(map(clean_title, catalogue)) if title]
    matcher = TitleMatcher(["", *cleaned])
    for title in cleaned:
        if clean_title(title) == title:
            assert ["", *cleaned][matcher.find(title).item] == title
    try:
        assert 1 <= matcher.find(text).item <= len(cleaned)
    except UnknownTitleError as error:
        assert error.what and error.remedy
