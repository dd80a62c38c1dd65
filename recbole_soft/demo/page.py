"""The page: a history to type or to pick, and what every panel makes of it. The only module that imports gradio.

Gradio is kept at home: this machine's address, no telemetry, no public link, the system's fonts, no part of the page
from elsewhere.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

from recbole_soft.demo.html import STYLE, panels_html
from recbole_soft.demo.panels import SideBySide
from recbole_soft.errors import SettingError, UserError

# Read when gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio

FONTS = ("system-ui", "sans-serif")
MONOSPACE = ("ui-monospace", "monospace")
FOUND_AT_ONCE = 10
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
HINTS = """
**{label}**, {items:,} items of *{dataset}*. Write a history, one {what} a line, oldest first; or look titles up,
or take somebody's from the data.
"""


def build_page(shown: SideBySide) -> gradio.Blocks:
    """The page for some panels."""
    what = "title" if shown.has_titles else "item id"
    with gradio.Blocks(title="recbole_soft: what comes next", analytics_enabled=False, fill_width=True) as page:
        gradio.Markdown("# What comes next\n" + HINTS.format(
            label=" · ".join(panel.label for panel in shown.panels), items=shown.item_count, what=what,
            dataset=shown.dataset))
        with gradio.Row():
            with gradio.Column(min_width=300):
                history = gradio.Textbox(label=f"History, one {what} a line, oldest first", lines=10, max_lines=20,
                                         value="\n".join(shown.example()))
            with gradio.Column(min_width=300):
                if shown.has_titles:
                    _search_box(shown, history)
                _user_box(shown, history)
                top = gradio.Slider(1, 20, value=10, step=1, label="Recommendations")
        ask = gradio.Button("Recommend", variant="primary")
        answers = gradio.HTML(label="Answers", container=False)

        def answer(text: str, count: int) -> Iterator[str]:
            for so_far in shown.answers(text.splitlines(), int(count)):
                yield panels_html(so_far)

        ask.click(answer, [history, top], answers, **PRIVATE)
    return page


def _search_box(shown: SideBySide, history: gradio.Textbox) -> None:
    """Finds titles while one types; Enter or a click adds one to the history."""
    typed = gradio.Textbox(label="Find a title", placeholder="part of a title; Enter adds the first that is found",
                           max_lines=1)
    found = gradio.Radio(label="Found", choices=[], visible=False)

    def search(text: str) -> Any:
        titles = shown.search(text, FOUND_AT_ONCE)
        return gradio.Radio(choices=titles, value=None, visible=bool(titles))

    def add(title: str | None, text: str) -> tuple[str, str, Any]:
        lines = [*filter(str.strip, text.splitlines()), *([title] if title else [])]
        return "\n".join(lines), "", gradio.Radio(choices=[], value=None, visible=False)

    def add_first(text: str, lines: str) -> tuple[str, str, Any]:
        titles = shown.search(text, 1)
        if not titles:
            raise gradio.Error(f"no title holds '{text}'", print_exception=False)
        return add(titles[0], lines)

    # `change` also comes when the box is emptied, so that no late answer is left standing.
    typed.change(search, typed, found, trigger_mode="always_last", queue=False, **PRIVATE)
    typed.submit(add_first, [typed, history], [history, typed, found], **PRIVATE)
    found.input(add, [found, history], [history, typed, found], **PRIVATE)


def _user_box(shown: SideBySide, history: gradio.Textbox) -> None:
    """Takes the history of somebody in the data."""
    generator = random.Random()
    user = gradio.Textbox(label="Or take the history of a user of the data", placeholder="user id, then Enter",
                          max_lines=1)
    anybody = gradio.Button("Take anybody's history", size="sm")

    def take(user_id: str) -> str:
        try:
            return "\n".join(shown.history_of(user_id))
        except UserError as error:
            raise gradio.Error(error.what, print_exception=False) from error

    def take_anybody() -> tuple[str, str]:
        user_id = shown.some_user(generator)
        return user_id, take(user_id)

    user.submit(take, user, history, **PRIVATE)
    anybody.click(take_anybody, None, [user, history], **PRIVATE)


def serve(page: gradio.Blocks, host: str, port: int) -> str:
    """Serves the page in the background; returns its address.

    Raises:
        SettingError: the port is taken, or there is no such address.
    """
    theme = gradio.themes.Base(font=FONTS, font_mono=MONOSPACE)
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, theme=theme, css=STYLE, share=False, quiet=True, ssr_mode=False,
            prevent_thread_lock=True, footer_links=[], inbrowser=False, enable_monitoring=False, pwa=False,
            mcp_server=False, run_history=False, strict_cors=True)
    except (OSError, ValueError) as error:
        raise SettingError(f"the page cannot be served: {error}", where=f"{host}:{port}",
                           remedy=f"choose another port, for instance --port={port + 1}") from error
    return address
