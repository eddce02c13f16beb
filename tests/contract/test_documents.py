"""What is written about the project is true as far as a machine can tell."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {"__pycache__", "build", "dist", "local_outputs", "mlruns", "node_modules", "site"}
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
# Letters in brackets, so that this file does not find itself.
REGISTRIES = re.compile(r"pypi[.]org|[p]ythonhosted|npmjs[.]org")
MACHINE_PATHS = re.compile(r"/wor[k]/main|/roo[t]/|/home/\w+/")


def files() -> list[Path]:
    """The files of the repository: not what tools made, whether or not git is there to say so."""
    found: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS and (not name.startswith(".") or name == ".ci")]
        found += [Path(folder) / name for name in names]
    return sorted(found)


DOCUMENTS = [path for path in files() if path.suffix == ".md"]


def anchors(text: str) -> set[str]:
    """The names by which a page's headings are linked to, as GitHub makes them."""
    names = set[str]()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        taken = sum(1 for other in names if other == name or re.fullmatch(rf"{re.escape(name)}-\d+", other))
        names.add(f"{name}-{taken}" if taken else name)
    return names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text())
    broken = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue  # another site: nothing here asks the network
        path, _, anchor = unquote(link).partition("#")
        target = (document.parent / path).resolve() if path else document
        missing_anchor = (
            anchor and target.suffix == ".md" and target.is_file() and anchor not in anchors(target.read_text())
        )
        if not target.exists() or missing_anchor:
            broken.append(link)
    assert not broken


def test_every_target_that_the_documents_tell_of_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    bench = {
        f"bench-{path.stem.removeprefix('bench_').replace('_', '-')}"
        for path in (ROOT / "benchmarks").glob("bench_*.py")
    }
    told = {target for page in DOCUMENTS for target in re.findall(r"`make ([a-z-]+)", page.read_text())}
    assert told <= targets | bench


def test_no_file_names_a_package_registry_or_a_path_of_somebodys_machine() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}: {hit}"
            for pattern in (REGISTRIES, MACHINE_PATHS)
            for hit in pattern.findall(text)
        ]
    assert not found


def test_distributions_have_one_version_and_allow_the_core_that_they_are_made_with() -> None:
    projects = [path for path in files() if path.name == "pyproject.toml" and "plugins" in path.parts]
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for path in projects:
        project = tomllib.loads(path.read_text())["project"]
        assert project["version"] == core, path
        assert "tracklayer>=0.1,<0.2" in project["dependencies"], path
    assert f"## {core} " in (ROOT / "CHANGELOG.md").read_text()
