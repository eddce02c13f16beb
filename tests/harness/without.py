"""An environment like the one that runs the tests, in which nothing of tracklayer is installed.

What merely installing it changes (entry points that are loaded, policies, plugins of MLflow's) is seen beside nothing else.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME: Final = "tracklayer"


def environment_without(folder: Path) -> Path:
    """Make a virtual environment with all that is installed here, but for tracklayer, its plugins and what needs them.

    It takes no time and no room: its packages are symbolic links.

    Args:
        folder: where it is to be.

    Returns:
        Its Python.
    """
    site, programs = Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("scripts"))
    left_out = {(site / file.parts[0] if file.parts[0] != os.pardir else (site / file).resolve()) for file in _files()}
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / programs.name / "python"
    linked = folder / site.relative_to(sys.prefix)
    for path in site.iterdir():
        if path not in left_out and path.name != "__pycache__":
            linked.joinpath(path.name).symlink_to(path)
    shebang = f"#!{programs}/python".encode()
    for path in programs.iterdir():
        if path.is_symlink() or path.resolve() in left_out:
            continue
        content = path.read_bytes()
        if content.startswith(shebang):
            line, _, rest = content.partition(b"\n")
            program = python.with_name(path.name)
            program.write_bytes(line.replace(shebang, f"#!{python}".encode()) + b"\n" + rest)
            program.chmod(0o755)
    return python


def _files() -> Iterator[metadata.PackagePath]:
    """What is installed of the distributions that are left out."""
    for distribution in metadata.distributions():
        needs = [requirement.partition(";")[0] for requirement in distribution.requires or []]
        if any(name.startswith(NAME) for name in (distribution.name, *needs)):
            yield from distribution.files or []


if __name__ == "__main__":
    sys.stdout.write(f"{environment_without(Path(sys.argv[1]))}\n")
