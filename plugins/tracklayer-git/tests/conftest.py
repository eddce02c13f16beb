from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tracklayer_git import plugin

if TYPE_CHECKING:
    from pathlib import Path

Git = Callable[..., str]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No CI system, no configuration of the machine, no repository around the working directory, nothing remembered.

    And a git that is given time: one that a busy machine keeps waiting for longer than `plugin.TIMEOUT` is not asked again.
    """
    prefixes = ("GIT_", "CI_", "GITHUB_", "TRACKLAYER_", "BUILD", "BITBUCKET_", "CIRCLE_", "CODEBUILD_", "DRONE_")
    for name in list(os.environ):
        if name.startswith((*prefixes, "CHANGE_BRANCH", "TAG_NAME")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    plugin._git.cache_clear()
    monkeypatch.setattr(plugin, "TIMEOUT", 30.0)


@pytest.fixture
def git() -> Git:
    """Run the real git in a folder, as somebody whose clock and name are known."""

    def run(folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "protocol.file.allow=always"]
        process = subprocess.run(
            ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
        )
        return process.stdout.strip()

    return run


@pytest.fixture
def project(tmp_path: Path, git: Git) -> Path:
    """A repository with one commit of one file, on the branch ``main``."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "flow.py").write_text("print('one')\n")
    git(folder, "add", "flow.py")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder
