"""HTML that nothing from a run can break out of, and the frame of every page.

Model names, answers and stories are untrusted text. They reach a page through `text` and `block` alone; the pages
carry a policy by which a browser runs the one script whose hash they name, and loads nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

__all__ = ["MAX_TEXT", "block", "facts", "page", "region", "table", "text", "visible"]

MAX_TEXT = 4_000
"""Characters of one text that a page shows; a model that writes a megabyte does not make the page one."""


def visible(value: object, keep: str = "") -> str:
    """Write what does not print as a backslash escape: control characters, text-direction marks, lone surrogates.

    Args:
        value: what to write.
        keep: characters to leave as they are, such as line breaks.
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii")
        for char in str(value)
    )


def _cut(value: str, limit: int) -> tuple[str, str]:
    """Cut a text, and say so."""
    if len(value) <= limit:
        return value, ""
    return value[:limit], f" … ({len(value):,} characters, the first {limit:,} shown)"


def text(value: object, limit: int = 300) -> str:
    """Return one line of escaped text, for an element or an attribute.

    Args:
        value: what to show; None is nothing.
        limit: characters of it that are shown.
    """
    shown, said = _cut("" if value is None else str(value), limit)
    return html.escape(visible(shown) + said)


def block(value: object, limit: int = MAX_TEXT) -> str:
    """Return escaped text in a ``pre`` element, line breaks kept."""
    shown, said = _cut(str(value), limit)
    return f"<pre>{html.escape(visible(shown, keep=chr(10)))}{html.escape(said)}</pre>"


def region(label: str, body: str, kind: str = "") -> str:
    """Put something wide into a box that scrolls, by keyboard too.

    Args:
        label: what the box is called.
        body: markup of what it holds.
        kind: a further class of the style sheet.
    """
    style = f"scroll {kind}".rstrip()
    return f'<div class="{style}" tabindex="0" role="region" aria-label="{text(label)}">{body}</div>'


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Return a table in a box that scrolls.

    Args:
        caption: what it holds.
        headings: texts of the header.
        rows: cells as markup, already escaped.
        words: how many columns at the left hold words, and are aligned as such.
    """

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        body = "".join(
            f'<td class="t">{cell}</td>' if place < words else f"<td>{cell}</td>" for place, cell in enumerate(rest, 1)
        )
        return f'<tr><th scope="row" class="t">{first}</th>{body}</tr>'

    head = "".join(
        f'<th scope="col"{" class=t" if place < words else ""}>{text(name)}</th>' for place, name in enumerate(headings)
    )
    body = "".join(line(cells) for cells in rows)
    inner = f"<table><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return region(caption, inner)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a list of names and values; the values as markup, already escaped."""
    return f'<dl class="facts">{"".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs)}</dl>'


@cache
def _asset(name: str) -> str:
    return files("leaderboards").joinpath("assets", name).read_text(encoding="utf-8")


def page(title: str, header: str, body: str, footer: str = "") -> str:
    """Return a whole page that needs nothing but itself.

    Args:
        title: the page's title, escaped here.
        header: markup above the main part.
        body: markup of the main part.
        footer: markup below it.
    """
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{style}</style></head>\n"
        f'<body><a class="skip" href="#main">Skip to the content</a>\n<header>{header}</header>\n'
        f'<main id="main">\n{body}\n</main>\n<footer>{footer}</footer>\n<script>{script}</script></body></html>\n'
    )
