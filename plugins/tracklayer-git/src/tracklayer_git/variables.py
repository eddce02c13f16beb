"""What the environment says about the code: variables of ours, and those that CI systems set by themselves."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracklayer_git.remote import without_credentials
from tracklayer_git.revision import Revision, commit_of, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("tracklayer.git")


@dataclass(frozen=True, slots=True)
class _System:
    """Names of one CI system's variables; of several, the first that is set counts."""

    commit: str
    branch: tuple[str, ...]
    repository: tuple[str, ...]
    tag: str | None = None


_SYSTEMS: Final = (
    _System(
        "CI_COMMIT_SHA",  # GitLab
        ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_BRANCH"),
        ("CI_PROJECT_URL", "CI_REPOSITORY_URL"),
        "CI_COMMIT_TAG",
    ),
    _System("BITBUCKET_COMMIT", ("BITBUCKET_BRANCH",), ("BITBUCKET_GIT_HTTP_ORIGIN",), "BITBUCKET_TAG"),
    _System("CIRCLE_SHA1", ("CIRCLE_BRANCH",), ("CIRCLE_REPOSITORY_URL",), "CIRCLE_TAG"),
    _System("BUILDKITE_COMMIT", ("BUILDKITE_BRANCH",), ("BUILDKITE_REPO",), "BUILDKITE_TAG"),
    _System("BUILD_SOURCEVERSION", ("BUILD_SOURCEBRANCH",), ("BUILD_REPOSITORY_URI",)),  # Azure Pipelines
    _System("CODEBUILD_RESOLVED_SOURCE_VERSION", (), ("CODEBUILD_SOURCE_REPO_URL",)),
    _System("DRONE_COMMIT_SHA", ("DRONE_SOURCE_BRANCH", "DRONE_BRANCH"), ("DRONE_GIT_HTTP_URL",), "DRONE_TAG"),
    _System("GIT_COMMIT", ("CHANGE_BRANCH", "GIT_LOCAL_BRANCH", "GIT_BRANCH"), ("GIT_URL",), "TAG_NAME"),  # Jenkins
)


def named(environ: Mapping[str, str]) -> Revision:
    """What ``TRACKLAYER_GIT_COMMIT``, ``_BRANCH`` and ``_REPOSITORY`` say: baked into an image, or set by hand."""
    text = environ.get("TRACKLAYER_GIT_COMMIT", "")
    commit = commit_of(text)
    if text and commit is None:
        log.warning("TRACKLAYER_GIT_COMMIT must be 7 to 64 hexadecimal digits, not %r; it is passed over", text[:80])
    return Revision(
        commit=commit,
        branch=name_of(environ.get("TRACKLAYER_GIT_BRANCH")),
        repository=without_credentials(environ.get("TRACKLAYER_GIT_REPOSITORY", "")),
    )


def of_ci(environ: Mapping[str, str]) -> Revision:
    """What the CI system says that it checked out; without a commit if this is no CI system that is known here."""
    github = commit_of(environ.get("GITHUB_SHA"))
    if github:
        return _of_github(github, environ)
    for system in _SYSTEMS:
        commit = commit_of(environ.get(system.commit))
        if commit:
            tag = name_of(environ.get(system.tag)) if system.tag else None
            return Revision(
                commit=commit,
                branch=_branch(_first(environ, system.branch)),
                repository=without_credentials(_first(environ, system.repository)),
                tags=(tag,) if tag else (),
            )
    return Revision()


def _of_github(commit: str, environ: Mapping[str, str]) -> Revision:
    """GitHub gives branch and tag in one variable, and the URL in two."""
    name = name_of(environ.get("GITHUB_REF_NAME"))
    is_tag = environ.get("GITHUB_REF_TYPE") == "tag"
    server, path = environ.get("GITHUB_SERVER_URL"), environ.get("GITHUB_REPOSITORY")
    return Revision(
        commit=commit,
        branch=name_of(environ.get("GITHUB_HEAD_REF")) or (None if is_tag else name),
        repository=without_credentials(f"{server}/{path}") if server and path else None,
        tags=(name,) if is_tag and name else (),
    )


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")


def _branch(text: str) -> str | None:
    """Azure writes ``refs/heads/main``, Jenkins ``origin/main``."""
    for prefix in ("refs/heads/", "refs/remotes/", "origin/"):
        text = text.removeprefix(prefix)
    return None if text.startswith(("refs/", "detached")) else name_of(text)
