"""The self-distilled set on disk, and its summary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recbole_soft.distill import DistilledWindow, GroundedAnswer, read_distilled, summarise, write_distilled

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
window = st.builds(DistilledWindow, text, text, text, st.floats(0, 9), st.booleans(),
                   st.one_of(st.none(), st.booleans()), st.integers(0, 9), text)


@given(windows=st.lists(window, max_size=5))
def test_any_answer_survives_the_file(tmp_path_factory, windows):
    path = tmp_path_factory.mktemp("distilled") / "windows.jsonl"
    write_distilled(path, windows)
    assert read_distilled(path) == windows


def test_summary_counts_hits_titles_and_categories():
    def made(answer, grounded, target, is_title, matches):
        return GroundedAnswer(target, answer, grounded, 2.0, is_title, matches)

    summary = summarise([made("A", "A", "A", True, True), made("A", "A", "B", True, True),
                         made("x", "C", "B", False, False), made("A", "A", "D", True, None)])
    assert summary == {"windows": 4, "hr_at_1": 0.25, "category_accuracy": 2 / 3, "valid_titles": 0.75,
                       "distinct_answers": 2, "mean_distance": 2.0}
