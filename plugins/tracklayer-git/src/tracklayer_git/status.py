"""The one question that needs the git binary: do tracked files differ from the commit?

It is asked as carefully as a question can be: no locks (``GIT_OPTIONAL_LOCKS=0``), no file-system monitor and no
hooks, no fetching of missing objects, no walk through untracked files or into submodules, a time limit for the whole
process group, and at most once in two seconds for one state of one repository. A repository in which git was too slow
once, or refused to answer (it belongs to another user, see git's ``safe.directory``), is not asked again by this
process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracklayer_git.repository import Head, Repository
from tracklayer_git.revision import commit_of, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger("tracklayer.git")

FRESH: Final = 2.0
"""For how many seconds an answer is used again. An edit of a file changes nothing that could be looked at more cheaply,
so this is all the memory that cannot be wrong for long; it spares the parent and the first stage, or the hundred
mapped tasks of one process, from asking each by themselves."""

_COMMAND: Final = (
    *("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "--no-optional-locks"),
    *("status", "--porcelain=v2", "--branch", "--no-ahead-behind", "--no-renames"),
    *("--untracked-files=no", "--ignore-submodules=dirty"),
)
_KEPT: Final = ("GIT_CONFIG", "GIT_EXEC_PATH", "GIT_CEILING_DIRECTORIES")


@dataclass(frozen=True, slots=True)
class Status:
    """git's answer; `head` is for repositories whose references only git itself can read."""

    head: Head
    dirty: bool


class Git:
    """The git binary, and what it answered lately. Safe to use from threads: at worst a question is asked twice."""

    def __init__(self) -> None:
        self._answers: dict[tuple[object, ...], tuple[float, Status | None]] = {}
        self._silent: set[Path] = set()

    def status(self, repository: Repository, *, timeout: float) -> Status | None:
        """How the working tree differs from its commit; None if there is no working tree, no git, or no answer.

        Args:
            repository: where to ask.
            timeout: seconds that git may take; 0 or less means: do not ask.
        """
        root = repository.root
        if root is None or timeout <= 0 or root in self._silent:
            return None
        state = (root, _stamp(repository.git_dir / "index"), _stamp(repository.git_dir / "HEAD"))
        asked_at, answer = self._answers.get(state, (float("-inf"), None))
        if time.monotonic() - asked_at < FRESH:
            return answer
        answer = self._ask(root, timeout)
        self._answers = {state: (time.monotonic(), answer)}
        return answer

    def _ask(self, root: Path, timeout: float) -> Status | None:
        git = shutil.which("git")
        if git is None:
            return None
        try:
            process = subprocess.Popen(
                [git, "-C", str(root), *_COMMAND],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(os.environ),
                start_new_session=True,  # so that the time limit also reaches what git starts (filters)
            )
        except OSError as error:
            log.debug("git cannot be started: %s", error)
            return None
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._silent.add(root)
            log.warning(
                "git needs more than %g s to say whether %s has changes; the tag tracklayer.git.dirty is left out from "
                "now on (TRACKLAYER_GIT_TIMEOUT sets the seconds, 0 never asks)",
                timeout,
                root,
            )
            return None
        finally:
            _end(process)
        if process.returncode != 0:
            self._silent.add(root)
            log.info(
                "git does not say whether %s has changes, so the tag tracklayer.git.dirty is left out from now on: %s",
                root,
                errors.decode("utf-8", "replace").strip(),
            )
            return None
        return parse(output.decode("utf-8", "replace"))


def parse(output: str) -> Status:
    """Read ``git status --porcelain=v2 --branch``: headers begin with ``#``, and each other line is a change."""
    commit = branch = None
    dirty = False
    for line in output.splitlines():
        if line.startswith("# branch.oid "):
            commit = commit_of(line.removeprefix("# branch.oid "))
        elif line.startswith("# branch.head "):
            branch = name_of(line.removeprefix("# branch.head "))
        elif line and not line.startswith("#"):
            dirty = True
    return Status(Head(commit, None if branch == "(detached)" else branch), dirty)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind, whether the time is up or the user pressed Ctrl-C."""
    if process.poll() is not None:
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=1.0)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would lead git elsewhere (``GIT_DIR`` inside a hook) or make it talk (traces)."""
    kept = {name: value for name, value in environ.items() if not name.startswith("GIT_") or name.startswith(_KEPT)}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
