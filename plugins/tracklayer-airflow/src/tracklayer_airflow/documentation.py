"""The provider's own documentation, as pages that Airflow's API server gives out: of the very version that is installed.

There are two: the distribution's README, which is in its metadata, and the reference page (``pages/reference.md``). They
are written for readers of the repository. Links between the two lead from page to page here, those to other sites stay, and
those to files that are not installed are plain text.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from importlib.metadata import metadata
from importlib.resources import files
from itertools import pairwise
from posixpath import dirname, join, normpath
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from markdown_it.token import Token

DISTRIBUTION: Final = "tracklayer-airflow"


class Page(NamedTuple):
    """One page.

    Attributes:
        title: what it is called in the line at the top of each.
        source: its file in the plugin's folder of the repository, from where its links lead.
    """

    title: str
    source: str


PAGES: Final = {
    "": Page("Overview", "README.md"),
    "reference": Page("Reference", "src/tracklayer_airflow/pages/reference.md"),
}
"""By the last part of their addresses."""

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #fff; --soft: #f3f4f6; --line: #d0d7de; --link: #0757ba; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e6ea; --paper: #15181c; --soft: #22272e; --line: #3d444d; --link: #79b8ff; }
}
body { margin: 0 auto; max-width: 60rem; padding: 1rem 1.5rem 4rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
header { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; padding-bottom: .5rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
nav ul { columns: 16rem; padding-left: 1.25rem; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .75rem; }
code, pre { font: .875em/1.5 ui-monospace, monospace; background: var(--soft); border-radius: 4px; }
code { padding: .1em .3em; }
pre { padding: .75rem 1rem; overflow-x: auto; }
pre code { padding: 0; font-size: 1em; }
table { display: block; overflow-x: auto; border-collapse: collapse; }
th, td { padding: .35rem .75rem; border: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--soft); }
thead:not(:has(th:not(:empty))) { display: none; }
.right { text-align: right; }
.center { text-align: center; }
.off { padding: .75rem 1rem; border: 1px solid #bf8700; border-left-width: 6px; border-radius: 4px; }
"""

HEADERS: Final = {
    # The page has one style and nothing else: whatever else a browser may find in it, it is not to load or run it.
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # another version may be installed, or the switch be turned, by tomorrow
}
"""What each page is sent with."""

OFF: Final = """<p class="off"><strong>Tracking is off here.</strong> The option <code>enabled</code> in the section
<code>[tracklayer]</code> of Airflow's configuration is not true. To switch tracking on, take it out or set it to
<code>True</code> (<code>AIRFLOW__TRACKLAYER__ENABLED=True</code>) for scheduler, DAG processor, workers and API server, and start
them anew.</p>
"""


@cache  # by name and switch: four at most
def page(name: str, *, is_on: bool) -> str:
    """A page as HTML.

    Args:
        name: one of `PAGES`.
        is_on: whether tracking is on; where it is not, the page begins with how to switch it on.

    Raises:
        KeyError: there is no such page.
        ImportError: what it is made with is not installed.
        OSError: it is not installed itself.
    """
    title = f"{DISTRIBUTION} {metadata(DISTRIBUTION)['Version']}"
    body, headings = render(name, source(name))
    pages = "".join(
        f"<strong>{escape(one.title)}</strong>"
        if other == name
        else f'<a href="{other or "./"}">{escape(one.title)}</a>'
        for other, one in PAGES.items()
    )
    contents = "".join(f'<li><a href="#{anchor}">{escape(text)}</a></li>' for anchor, text in headings)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: {escape(PAGES[name].title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><span>{escape(title)}</span>{pages}</header>\n{'' if is_on else OFF}"
        f'<nav aria-label="On this page"><ul>{contents}</ul></nav>\n<main>\n{body}</main>\n</body>\n</html>\n'
    )


def source(name: str) -> str:
    """The Markdown of a page, as it is installed.

    Raises:
        OSError: it is not there.
    """
    if not name:
        return metadata(DISTRIBUTION)["Description"]
    return files("tracklayer_airflow").joinpath("pages", f"{name}.md").read_text("utf-8")


def render(name: str, text: str) -> tuple[str, list[tuple[str, str]]]:
    """HTML for a page's Markdown; HTML in the Markdown is shown as text.

    Args:
        name: the page's, by which its links are understood.
        text: its Markdown.

    Returns:
        The HTML, and the anchors and texts of the headings of its sections.

    Raises:
        ImportError: markdown-it-py is not installed.
    """
    from markdown_it import MarkdownIt  # Airflow's API server has it (by rich), and no other component needs it

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    anchors, headings = set[str](), list[tuple[str, str]]()
    for before, token in pairwise(tokens):
        if token.type == "inline":
            children = token.children or []
            if before.type == "heading_open":
                heading = "".join(child.content for child in children)
                before.attrs["id"] = anchor = _anchor(heading, anchors)
                if before.tag == "h2":
                    headings.append((anchor, heading))
            token.children = _linked(name, children)
        elif style := token.attrs.pop("style", None):  # of cells: text-align. The policy lets no element have its own
            token.attrs["class"] = str(style).rpartition(":")[2]
    return parser.renderer.render(tokens, parser.options, {}), headings


def _anchor(heading: str, taken: set[str]) -> str:
    """The name by which a heading is linked to, as code hosts make them; it is added to those that are taken."""
    first = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    name, number = first, 0
    while name in taken:
        number += 1
        name = f"{first}-{number}"
    taken.add(name)
    return name


def _linked(name: str, tokens: list[Token]) -> list[Token]:
    """A text's tokens, whose links lead to where they lead on these pages; without those that lead nowhere."""
    kept: list[Token] = []
    is_dead = False
    for token in tokens:
        if token.type == "link_open":
            address = _address(name, str(token.attrs["href"]))
            is_dead = address is None
            token.attrs["href"] = address or ""
        if not (is_dead and token.type in {"link_open", "link_close"}):
            kept.append(token)
    return kept


def _address(name: str, link: str) -> str | None:
    """Where a link of a page leads to from there; None: to a file that is not installed."""
    if re.match("https?:", link):
        return link
    path, mark, anchor = link.partition("#")
    if not path:
        return link
    target = normpath(join(dirname(PAGES[name].source), path))
    return next((f"{other or './'}{mark}{anchor}" for other, one in PAGES.items() if one.source == target), None)
