"""The pages that Airflow's API server gives out: complete, without dead links, and without anything that runs."""

from __future__ import annotations

import asyncio
import re
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urljoin

import httpx
import pytest

import tracklayer_airflow
from tracklayer_airflow.application import application
from tracklayer_airflow.documentation import HEADERS, PAGES, page, render, source

if TYPE_CHECKING:
    from fastapi import FastAPI

PLUGIN = Path(__file__).parents[1]

DOCS = "http://airflow.example.com/prefix/tracklayer/docs/"
"""Where they might be."""


class Parsed(HTMLParser):
    """What is on a page: elements, anchors, links, the headings' text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.anchors: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.elements.append(tag)
        self.attributes |= set(given)
        self.anchors += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if "href" in given else []
        if tag in {"h1", "h2", "h3"}:
            self.headings.append("")

    def handle_data(self, data: str) -> None:
        if self.headings and self.elements[-1] in {"h1", "h2", "h3"} and not self.headings[-1]:
            self.headings[-1] = data


def markdown(name: str) -> str:
    """A page's source in this repository: what is installed of the README is as it was when it was installed."""
    return (PLUGIN / PAGES[name].source).read_text()


def made(name: str) -> Parsed:
    """A page of this repository as it is now."""
    return Parsed(render(name, markdown(name))[0])


def get(app: FastAPI, path: str) -> httpx.Response:
    """What the application answers, after redirects."""

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow", follow_redirects=True) as client:
            return await client.get(path)

    return asyncio.run(answer())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_all_that_its_source_has(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", markdown(name), flags=re.MULTILINE | re.DOTALL)
    parsed = made(name)
    assert parsed.headings == re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert parsed.elements.count("table") == len(re.findall(r"^\|-[-:|]*$", text, re.MULTILINE)) > 0
    assert parsed.elements.count("tr") == len(re.findall(r"^\|(?!-)", text, re.MULTILINE))
    assert len(parsed.anchors) == len(set(parsed.anchors)) == len(parsed.headings)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    there = {urljoin(DOCS, other): made(other).anchors for other in PAGES}
    links = [link for link in made(name).links if not link.startswith("https://")]
    for link in links:
        target, anchor = urldefrag(urljoin(urljoin(DOCS, name), link))
        assert target in there, link
        assert not anchor or anchor in there[target], link
    others = {urldefrag(urljoin(urljoin(DOCS, name), link)).url for link in links}
    assert others == set(there), "each has links within, and leads to the other"


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("is_on", [True, False])
def test_nothing_on_a_page_runs_or_is_loaded(name: str, is_on: bool) -> None:
    text = page(name, is_on=is_on)
    parsed = Parsed(text)
    assert not set(parsed.elements) & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert parsed.attributes <= {"aria-label", "charset", "class", "content", "href", "id", "lang", "name"}
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    known = b64encode(sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{known}';" in HEADERS["Content-Security-Policy"]
    assert ("Tracking is off here." in text) is not is_on
    assert ("AIRFLOW__TRACKLAYER__ENABLED=True" in text) is not is_on


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("[a](src/tracklayer_airflow/pages/reference.md#settings)", '<a href="reference#settings">a</a>'),
        ("[a](README.md)", '<a href="./">a</a>'),
        ("[`a`](#settings)", '<a href="#settings"><code>a</code></a>'),
        ("[a](https://mlflow.org/docs)", '<a href="https://mlflow.org/docs">a</a>'),
        ("[`a`](tests/a.py), [b](../../docs/b.md#c) and [c](#d)", '<code>a</code>, b and <a href="#d">c</a>'),
        ("[a](ftp://example.com) [b](//example.com)", "a b"),
        ("[a](javascript:alert(1))", "[a](javascript:alert(1))"),
        ("<b onclick=x>a</b>", "&lt;b onclick=x&gt;a&lt;/b&gt;"),
    ],
)
def test_links(text: str, html: str) -> None:
    assert render("", text)[0] == f"<p>{html}</p>\n"


def test_links_of_the_reference_are_those_of_its_place() -> None:
    assert render("reference", "[a](../../../README.md#outages)")[0] == '<p><a href="./#outages">a</a></p>\n'


def test_headings_are_linked_to_as_in_the_repository() -> None:
    text = "# A `b`, c\n## [Links](a.md) and XComs\n## A b c\n### A b c\n"
    html, headings = render("", text)
    assert Parsed(html).anchors == ["a-b-c", "links-and-xcoms", "a-b-c-1", "a-b-c-2"]
    assert headings == [("links-and-xcoms", "Links and XComs"), ("a-b-c-1", "A b c")]


def test_cells_are_aligned_by_the_pages_own_style() -> None:
    html, _ = render("", "|a|b|\n|---:|:---:|\n|1|2|\n")
    assert html.count('<td class="right">1</td>') == html.count('<td class="center">2</td>') == 1
    assert "style" not in html


def test_what_is_given_out() -> None:
    app = application(is_on=True)
    for path, name in (
        ("/docs/", ""),
        ("/docs/reference", "reference"),
        ("/docs", ""),
        ("/docs/reference/", "reference"),
    ):
        answer = get(app, path)
        assert answer.status_code == 200
        assert answer.text == page(name, is_on=True)
        assert f"<title>tracklayer-airflow {tracklayer_airflow.__version__}: {PAGES[name].title}</title>" in answer.text
        assert {key: answer.headers[key] for key in HEADERS} == HEADERS
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for path in ("/docs/README.md", "/docs/../pages/reference.md", "/docs/%2e%2e/provider.py", "/", "/openapi.json"):
        assert get(app, path).status_code == 404


def test_the_pages_are_those_that_are_installed() -> None:
    assert source("reference") == markdown("reference")
    assert source("").startswith("# tracklayer-airflow\n")


def test_a_page_that_cannot_be_made_is_all_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markdown_it", None)  # what cannot be imported
    page.cache_clear()
    app = application(is_on=True)
    assert get(app, "/docs/").status_code == 500
    assert get(app, "/dag_run.js").status_code == 200
