"""The hook: git's answer to "which code made this run?", as tags.

=============================  =====================================================================================
``mlflow.source.git.commit``   the commit
``mlflow.source.git.branch``   the branch; left out for a detached HEAD
``mlflow.source.git.repoURL``  the repository's URL without credentials
``tracklayer.git.tag``         the git tags that point at the commit, separated by commas
``tracklayer.git.dirty``       ``true`` if tracked files differ from the commit, ``false`` if they do not
=============================  =====================================================================================

The first three are MLflow's own, so its UI shows them where it always does. A tag whose value is unknown is left out.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracklayer.hookspecs import hookimpl
from tracklayer.interruption import let_through

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracklayer.context import RunContext
    from tracklayer_git.revision import Revision
    from tracklayer_git.status import Git

TIMEOUT: Final = 1.0
"""Seconds that the git binary may take, if ``TRACKLAYER_GIT_TIMEOUT`` does not say otherwise."""

_TAGS_SHOWN: Final = 10

tracklayer_settings = "tracklayer.settings:NoSettings"
"""It has no table of settings."""

log = logging.getLogger("tracklayer.git")


@hookimpl
def tracklayer_run_tags(context: RunContext) -> Mapping[str, str] | None:
    """Tags that name the code of `context`; None if nothing is known. Never raises."""
    try:
        return tags(revision(context.workflow_run.source, os.environ)) or None
    except Exception as error:  # whatever a strange repository does, the run goes on without these tags
        let_through(error)
        log.warning("the git tags are left out: %s: %s", type(error).__name__, error)
        return None


def revision(source: str | None, environ: Mapping[str, str]) -> Revision:
    """The code that runs, from the first of these that knows a commit; later ones complete it if they agree.

    1. ``TRACKLAYER_GIT_COMMIT``, ``TRACKLAYER_GIT_BRANCH`` and ``TRACKLAYER_GIT_REPOSITORY``.
    2. The repository that holds `source`, the file that defines the workflow.
    3. The CI system's variables. They come after the repository, as they name what the CI job checked out, which need
       not be where the workflow lives; where both agree they add the branch that a detached HEAD does not know.
    4. The repository that holds the working directory.
    """
    from tracklayer_git import variables

    found = variables.named(environ)
    for candidate in _candidates(source, environ):
        if found.commit and found.branch and found.repository and found.dirty is not None:
            break
        found = found.completed(candidate)
    return found


def tags(revision: Revision) -> dict[str, str]:
    """The tags that stand for `revision`, without those that are unknown."""
    values = {
        "mlflow.source.git.commit": revision.commit,
        "mlflow.source.git.branch": revision.branch,
        "mlflow.source.git.repoURL": revision.repository,
        "tracklayer.git.tag": ", ".join(revision.tags[:_TAGS_SHOWN]) or None,
        "tracklayer.git.dirty": None if revision.dirty is None else str(revision.dirty).lower(),
    }
    return {name: value for name, value in values.items() if value is not None}


def _candidates(source: str | None, environ: Mapping[str, str]) -> Iterator[Revision]:
    from tracklayer_git import variables

    timeout = _timeout(environ)
    if source:
        yield _of_place(Path(source), timeout)
    yield variables.of_ci(environ)
    yield _of_place(Path.cwd(), timeout)


def _of_place(place: Path, timeout: float) -> Revision:
    from tracklayer_git import remote, repository
    from tracklayer_git.revision import Revision, name_of

    found = repository.find(place)
    if found is None:
        return Revision()
    head = repository.head(found)
    status = _git().status(found, timeout=timeout)
    if head.commit is None and status is not None:
        head = status.head
    return Revision(
        commit=head.commit,
        branch=name_of(head.branch),
        repository=remote.url_of(found, head.branch),
        tags=tuple(filter(None, map(name_of, repository.tags_at(found, head.commit)))) if head.commit else (),
        # Before the first commit there is nothing to differ from.
        dirty=status.dirty if status is not None and head.commit else None,
    )


@cache
def _git() -> Git:
    from tracklayer_git.status import Git

    return Git()


def _timeout(environ: Mapping[str, str]) -> float:
    text = environ.get("TRACKLAYER_GIT_TIMEOUT", "")
    try:
        return float(text) if text else TIMEOUT
    except ValueError:
        log.warning("TRACKLAYER_GIT_TIMEOUT must be a number of seconds, not %r; %g is used", text, TIMEOUT)
        return TIMEOUT
