"""The page around the sections: head, contents, theme, policy against anything from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from recbole_soft.artifacts import write_text
from recbole_soft.reporting.comparison import Comparison
from recbole_soft.reporting.html import alpha, answers, breakdown, cost, curves, examples, provenance, results
from recbole_soft.reporting.html.markup import Html, joined, slug, tag
from recbole_soft.reporting.html.view import DataGroup, Section, groups_of

SECTIONS = (results.section, curves.section, alpha.section, cost.section, answers.section, breakdown.section,
            examples.section, results.runs_section, provenance.section)


def report_page(comparison: Comparison, title: str = "Comparison of runs", now: datetime | None = None) -> str:
    """The whole page as text; it needs no other file and no network.

    Args:
        now: what the page says of when it was made.
    """
    groups = groups_of(comparison)
    sections = [make(groups) for make in SECTIONS]
    shown = [section for section in sections if section.body is not None]
    parts = [tag("section", tag("h2", section.title), section.body, id=slug(section.title)) for section in shown]
    missing = [section for section in sections if section.body is None]
    if missing:
        shown.append(Section("Left out"))
        parts.append(tag("section", tag("h2", "Left out"), tag("dl", [
            joined(tag("dt", section.title), tag("dd", f"{section.reason}.")) for section in missing], class_="facts"),
            id="left-out"))
    contents = tag("nav", tag("ol", [tag("li", tag("a", section.title, href=f"#{slug(section.title)}"))
                                     for section in shown]), aria_label="Contents")
    body = tag("body", tag("a", "Skip to the results", href="#results", class_="skip"),
               tag("div", _header(title, groups), contents, tag("main", parts), _footer(now or datetime.now(UTC)),
                   class_="page single" if len(groups) == 1 else "page"), tag("script", _asset("report.js")))
    return f"<!DOCTYPE html>\n{tag('html', _head(title), body, lang='en')}\n"


def write_page(path: Path, comparison: Comparison, title: str) -> Path:
    """Writes the page and returns its path."""
    write_text(path, report_page(comparison, title))
    return path


def _asset(name: str) -> Html:
    """A file of ours as it is; neither of them holds a closing tag."""
    return Html((files(__package__) / "assets" / name).read_text(encoding="utf-8"))


def _head(title: str) -> Html:
    """Styles, and a policy under which nothing is loaded and no script runs but ours."""
    digest = base64.b64encode(hashlib.sha256(_asset("report.js").encode()).digest()).decode()
    policy = (f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
              "form-action 'none'")
    return tag("head", tag("meta", charset="utf-8"),
               tag("meta", http_equiv="Content-Security-Policy", content=policy),
               tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
               tag("meta", name="referrer", content="no-referrer"),
               tag("title", title), tag("style", _asset("report.css")))


def _header(title: str, groups: Sequence[DataGroup]) -> Html:
    runs = [run for group in groups for run in group.runs]
    seeds = {run.seed for run in runs}
    labels = dict.fromkeys(method.name for group in groups for method in group.methods)
    facts = (f"{len(runs)} run{'s' * (len(runs) != 1)}, {len(labels)} method{'s' * (len(labels) != 1)}, "
             f"{len(seeds)} seed{'s' * (len(seeds) != 1)}, on {_listed([group.name for group in groups])}.")
    return tag("header", tag("h1", title), tag("p", facts), tag("p", "Made from the runs' records alone by ",
               tag("code", "recbole-soft report"), "."),
               tag("button", "Theme", type="button", id="theme", hidden=True,
                   title="light, dark, or as the system has it"))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _footer(now: datetime) -> Html:
    return tag("footer", tag("p", f"Made on {now:%Y-%m-%d %H:%M} UTC. This file is complete: it loads nothing."))
