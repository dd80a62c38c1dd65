"""Answers of panels as HTML. Every word of data goes through `escape`: titles are never markup.

Colours come from the page's own variables, so that light and dark follow the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from recbole_soft.demo.panels import PanelAnswer, shared_items
from recbole_soft.recommend.formats import clean
from recbole_soft.recommend.recommender import NearItem, Recommendation

STYLE = """
.rs-grid { --rs-quiet: color-mix(in srgb, var(--body-text-color) 72%, var(--background-fill-primary));
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1rem;
  align-items: start; }
.rs-panel { border: 1px solid var(--border-color-primary); border-radius: .5rem; padding: .9rem 1rem;
  background: var(--background-fill-primary); color: var(--body-text-color); min-width: 0; overflow-wrap: anywhere; }
.rs-panel h3 { margin: 0; font-size: 1.1rem; color: inherit; }
.rs-panel h4 { margin: .9rem 0 .3rem; font-size: .8rem; font-weight: 600; color: var(--rs-quiet); }
.rs-panel .rs-small { font-size: .8rem; color: var(--rs-quiet); margin: .1rem 0 0; }
.rs-wrote { margin: 0; padding: .4rem .7rem; border-left: 3px solid var(--color-accent);
  background: var(--background-fill-secondary); }
.rs-panel table, .rs-panel tr { border: 0 !important; background: none; }
.rs-panel table { width: 100%; border-collapse: collapse; font-size: .92rem; margin: 0; }
.rs-panel td, .rs-panel th { padding: .25rem .35rem .25rem 0 !important; border: 0 !important;
  border-top: 1px solid var(--border-color-primary) !important; vertical-align: top; text-align: left;
  font-weight: normal; color: inherit; background: none; }
.rs-panel th { font-size: .8rem; color: var(--rs-quiet); border-top: 0 !important; }
.rs-panel .rs-number { text-align: right; padding-right: 0 !important; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.rs-panel .rs-place { width: 1.8rem; color: var(--rs-quiet); }
.rs-tag { display: inline-block; font-size: .75rem; border: 1px solid var(--border-color-primary); border-radius: .7rem;
  padding: 0 .45rem; margin-left: .35rem; color: var(--rs-quiet); white-space: nowrap; }
.rs-error { border-left: 3px solid var(--error-border-color, #b91c1c); padding: .4rem .7rem; margin: .8rem 0 0; }
"""


def panels_html(answers: Sequence[PanelAnswer]) -> str:
    """All panels side by side; below each other on a narrow screen."""
    shared = shared_items(answers)
    return f'<div class="rs-grid">{"".join(_panel(one, shared) for one in answers)}</div>'


def _panel(one: PanelAnswer, shared: dict[str, int]) -> str:
    heading = (f'<h3>{_text(one.panel.label)}</h3><p class="rs-small">{_text(one.panel.folder)}, '
               f'stage {_text(one.panel.stage)}{_seconds(one)}</p>')
    return f'<section class="rs-panel" aria-label="{_text(one.panel.label)}">{heading}{_content(one, shared)}</section>'


def _seconds(one: PanelAnswer) -> str:
    return f", {one.seconds:.1f}&nbsp;s" if one.answer else ""


def _content(one: PanelAnswer, shared: dict[str, int]) -> str:
    if one.error:
        return f'<p class="rs-error" role="alert">{_text(one.error)}</p>'
    if one.answer is None:
        return '<p class="rs-small">Answering ...</p>'
    answer = one.answer
    notes = "".join(f'<p class="rs-small">{_text(note)}</p>' for note in answer.notes)
    wrote = ""
    if answer.generated:
        texts = "".join(f'<p class="rs-wrote">{_text(text) or "(nothing)"}</p>' for text in answer.generated)
        wrote = f"<h4>The model wrote</h4>{texts}<h4>Nearest titles to it</h4>{_near_table(answer.nearest)}"
    return f"{notes}{wrote}<h4>Recommended</h4>{_ranking(answer.items, shared)}"


def _near_table(items: Sequence[NearItem]) -> str:
    rows = "".join(
        f'<tr><td>{_text(item.title)}{_tag("in the history") if item.is_known else ""}</td>'
        f'<td class="rs-number">{item.distance:.3f}</td></tr>' for item in items)
    return _table('<th>title</th><th class="rs-number">distance</th>', rows)


def _ranking(items: Sequence[Recommendation], shared: dict[str, int]) -> str:
    if not items:
        return '<p class="rs-small">Nothing is left to recommend.</p>'
    by_distance = items[0].distance is not None
    rows = "".join(_row(item, shared.get(item.item_id, 1) - 1) for item in items)
    measure = "distance" if by_distance else "score"
    return _table(f'<th class="rs-place">#</th><th>title</th><th class="rs-number">{measure}</th>', rows)


def _table(head: str, rows: str) -> str:
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(item: Recommendation, others: int) -> str:
    also = _tag(f"also in {others} other{'s' if others > 1 else ''}") if others else ""
    category = f'<div class="rs-small">{_text(item.category)}</div>' if item.category else ""
    value = item.score if item.distance is None else item.distance
    return (f'<tr><td class="rs-place">{item.place}</td><td>{_text(item.title or item.item_id)}{also}{category}</td>'
            f'<td class="rs-number">{value:.3f}</td></tr>')


def _tag(text: str) -> str:
    return f'<span class="rs-tag">{_text(text)}</span>'


def _text(text: str) -> str:
    return escape(clean(text), quote=True)
