"""The command line, ``tracklayer …``; needs the extra ``cli`` (typer and rich)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NEEDED = frozenset({"typer", "rich", "click"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and exit with its code: 0 for well, 1 for a problem, 2 for a command line that cannot be read.

    Args:
        arguments: what stands behind ``tracklayer``; None takes it from the process.
    """
    try:
        from tracklayer.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        print(
            f"The command line needs {error.name}, which is not installed. Install it with the extra 'cli':\n\n"
            "    pip install 'tracklayer[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    run(sys.argv[1:] if arguments is None else arguments)
