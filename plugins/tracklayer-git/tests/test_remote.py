from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tracklayer_git import remote, repository

if TYPE_CHECKING:
    from pathlib import Path

Git = Callable[..., str]


def url_of(folder: Path, branch: str | None = "main") -> str | None:
    found = repository.find(folder)
    assert found is not None
    return remote.url_of(found, branch)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://github.com/team/flights.git", "https://github.com/team/flights.git"),
        ("https://ada:s3cret@git.example.com:8443/flights", "https://git.example.com:8443/flights"),
        ("https://ghp_token@github.com/team/flights", "https://github.com/team/flights"),
        ("https://x:p@ss@git.example.com/flights", "https://git.example.com/flights"),
        ("https://git.example.com/flights?private_token=s3cret#x", "https://git.example.com/flights"),
        ("ssh://git:s3cret@git.example.com:22/flights", "ssh://git@git.example.com:22/flights"),
        ("git@github.com:team/flights.git", "git@github.com:team/flights.git"),
        ("https://[broken/flights", None),
        ("https://git.example.com/a\x1b[31mb", "https://git.example.com/a[31mb"),
        ("  ", None),
    ],
)
def test_a_url_is_shown_without_credentials(url: str, shown: str | None) -> None:
    assert remote.without_credentials(url) == shown


def test_origin_unless_the_branch_follows_another(project: Path, git: Git) -> None:
    git(project, "remote", "add", "fork", "https://example.com/fork.git")
    assert url_of(project) == "https://example.com/fork.git", "the only remote there is"
    git(project, "remote", "add", "origin", "https://example.com/origin.git")
    assert url_of(project) == "https://example.com/origin.git"
    git(project, "config", "branch.main.remote", "fork")
    assert url_of(project) == "https://example.com/fork.git"
    assert url_of(project, "other") == "https://example.com/origin.git"


def test_no_remote_and_several_of_which_none_is_meant(project: Path, git: Git) -> None:
    assert url_of(project) is None
    git(project, "remote", "add", "one", "https://example.com/one.git")
    git(project, "remote", "add", "two", "https://example.com/two.git")
    assert url_of(project) is None


def test_configuration_as_people_write_it(project: Path) -> None:
    (project / ".git/config").write_text(
        '# [remote "origin"]\n'
        '[core]\n\tbare = false ; url = "https://example.com/wrong"\n'
        '[Remote "origin"] fetch = +refs/heads/*:refs/remotes/origin/*\n'
        '  URL = "https://example.com/a b" # the real one\n'
        "  url = https://example.com/second\n"
        '[branch "ma\\"in"]\n\tremote = \\\n origin\n'
    )

    assert url_of(project, 'ma"in') == "https://example.com/a b"


def test_a_clone_of_a_local_copy_names_where_the_copy_came_from(project: Path, git: Git, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(project), "bare")
    git(tmp_path / "bare", "remote", "set-url", "origin", "https://token:x@example.com/team/flights.git")
    git(tmp_path, "clone", "--quiet", str(tmp_path / "bare"), "bundle")

    assert url_of(tmp_path / "bundle") == "https://example.com/team/flights.git"


def test_a_path_that_leads_nowhere_is_no_url(project: Path, git: Git) -> None:
    git(project, "remote", "add", "origin", "../gone")
    assert url_of(project) is None
    git(project, "remote", "set-url", "origin", ".")
    assert url_of(project) is None
