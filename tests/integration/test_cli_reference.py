"""The pages about the command line say what the command line says."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tracklayer.cli import app, doctor, flush, lineage, plugins, reconcile
from tracklayer.lineage import document
from tracklayer.lineage.graph import DatasetNode, Edge, Graph, RunNode

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/cli.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "plugins").glob("*/README.md"))]
MODULES: dict[str, Any] = {
    "doctor": doctor,
    "plugins": plugins,
    "lineage": lineage,
    "flush": flush,
    "reconcile": reconcile,
}


@pytest.fixture(scope="module")
def command() -> Any:
    return typer.main.get_command(app.application())


def section(name: str | None) -> str:
    """The part of the reference about a command, or the part before all of them."""
    parts = re.split(r"^## tracklayer (\w+)$", REFERENCE, flags=re.MULTILINE)
    return parts[0] if name is None else dict(zip(parts[1::2], parts[2::2], strict=True))[name]


def rows(text: str) -> dict[frozenset[str], tuple[str, str]]:
    """Options with their meaning and default, from the tables of a section."""
    found = re.findall(r"^\| (`-.*?) \| (.*?) \| (.*?) ?\|$", text, flags=re.MULTILINE)
    return {frozenset(re.findall(r"`(-[\w-]+)`", names)): (meaning, default) for names, meaning, default in found}


def options(command: Any) -> dict[frozenset[str], Any]:
    return {frozenset(param.opts): param for param in command.params if param.opts[0].startswith("-")}


@pytest.mark.parametrize("name", [None, *MODULES])
def test_the_reference_has_every_option_and_no_other(command: Any, name: str | None) -> None:
    own = options(command if name is None else command.commands[name])
    told = {names: row for names, row in rows(section(name)).items() if "--help" not in names}

    assert told.keys() == own.keys()
    for names, param in own.items():
        meaning, default = told[names]
        if "--format" in names:
            assert set(re.findall(r"`(\w+)`", meaning)) == set(MODULES[str(name)].Format)
        if param.default not in (None, False):
            assert default == f"`{getattr(param.default, 'value', param.default)}`"


def test_the_reference_has_every_command(command: Any) -> None:
    assert (
        set(re.findall(r"^## tracklayer (\w+)$", REFERENCE, flags=re.MULTILINE))
        == set(MODULES)
        <= set(command.commands)
    )


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_has_each_help_text_and_its_examples(name: str) -> None:
    module, text = MODULES[name], " ".join(section(name).split())

    for paragraph in (inspect.getdoc(getattr(module, name)) or "").split("\n\n"):
        for sentence in " ".join(paragraph.split()).split(". "):
            assert sentence.rstrip(".") in text
    for example in module.EXAMPLES:
        assert f"\n{example}\n" in section(name)


def test_the_document_is_described_field_by_field() -> None:
    text = section("lineage")
    graph = Graph(
        root="a",
        runs=(RunNode(id="a"),),
        datasets=(DatasetNode(id="dataset:b", name="b"),),
        edges=(Edge(source="dataset:b", target="a", kind="input"),),
    )
    told = document.as_dict(graph)

    for fields in (told, *told["nodes"], *told["edges"]):
        for field in fields:
            assert f"`{field}`" in text, field


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_all_documents_can_be_typed(command: Any, page: Path) -> None:
    blocks = re.findall(r"^```(?:bash|console|sh|shell)?\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        match = re.match(r"(?:\$ )?(?:\S*/)?(tracklayer [^|>#]*)", line.strip())
        if match is None:
            continue
        _, *words = shlex.split(match[1])
        own = options(command)
        if words and not words[0].startswith("-"):
            assert words[0] in command.commands, line
            named = command.commands[words[0]]
            if len(words) > 1 and hasattr(named, "commands"):  # a group
                assert words[1] in named.commands, line
                named = named.commands[words[1]]
            own = options(named)
        known = {name for names in own for name in names} | {"--help", "-h", "--debug"}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, line
