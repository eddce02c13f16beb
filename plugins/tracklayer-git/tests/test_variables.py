from __future__ import annotations

import pytest

from tracklayer_git import variables
from tracklayer_git.revision import Revision

SHA = "1234567890abcdef1234567890abcdef12345678"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {
                "GITHUB_SHA": SHA,
                "GITHUB_REF_NAME": "main",
                "GITHUB_REF_TYPE": "branch",
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_REPOSITORY": "team/flights",
            },
            Revision(commit=SHA, branch="main", repository="https://github.com/team/flights"),
        ),
        (
            {"GITHUB_SHA": SHA, "GITHUB_REF_NAME": "12/merge", "GITHUB_HEAD_REF": "feature/x"},
            Revision(commit=SHA, branch="feature/x"),
        ),
        (
            {"GITHUB_SHA": SHA, "GITHUB_REF_NAME": "v1.0", "GITHUB_REF_TYPE": "tag"},
            Revision(commit=SHA, tags=("v1.0",)),
        ),
        (
            {
                "CI_COMMIT_SHA": SHA,
                "CI_COMMIT_BRANCH": "main",
                "CI_REPOSITORY_URL": "https://gitlab-ci-token:s3cret@gitlab.example.com/team/flights.git",
            },
            Revision(commit=SHA, branch="main", repository="https://gitlab.example.com/team/flights.git"),
        ),
        (
            {"GIT_COMMIT": SHA, "GIT_BRANCH": "origin/main", "GIT_URL": "git@example.com:team/flights.git"},
            Revision(commit=SHA, branch="main", repository="git@example.com:team/flights.git"),
        ),
        (
            {"BUILD_SOURCEVERSION": SHA, "BUILD_SOURCEBRANCH": "refs/heads/main"},
            Revision(commit=SHA, branch="main"),
        ),
        ({"BUILD_SOURCEVERSION": SHA, "BUILD_SOURCEBRANCH": "refs/pull/1/merge"}, Revision(commit=SHA)),
        ({"BUILDKITE_COMMIT": "HEAD", "BUILDKITE_BRANCH": "main"}, Revision()),
        ({}, Revision()),
    ],
)
def test_each_ci_system_says_it_in_its_own_words(environ: dict[str, str], expected: Revision) -> None:
    assert variables.of_ci(environ) == expected


def test_our_own_variables() -> None:
    environ = {
        "TRACKLAYER_GIT_COMMIT": f" {SHA.upper()}\n",
        "TRACKLAYER_GIT_BRANCH": "main",
        "TRACKLAYER_GIT_REPOSITORY": "https://me:s3cret@example.com/flights",
    }

    assert variables.named(environ) == Revision(commit=SHA, branch="main", repository="https://example.com/flights")


def test_a_commit_that_is_none_is_passed_over_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    assert variables.named({"TRACKLAYER_GIT_COMMIT": "latest"}) == Revision()
    assert "TRACKLAYER_GIT_COMMIT must be 7 to 64 hexadecimal digits, not 'latest'" in caplog.text
