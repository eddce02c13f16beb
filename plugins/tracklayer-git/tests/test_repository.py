from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tracklayer_git import repository

if TYPE_CHECKING:
    from pathlib import Path

Git = Callable[..., str]


def head_of(place: Path) -> repository.Head:
    found = repository.find(place)
    assert found is not None
    return repository.head(found)


def test_a_branch_with_slashes_and_a_file_in_a_folder_below(project: Path, git: Git) -> None:
    git(project, "switch", "--quiet", "--create", "feature/hello/world")
    deep = project / "dags" / "team"
    deep.mkdir(parents=True)

    assert head_of(deep / "flights.py") == repository.Head(git(project, "rev-parse", "HEAD"), "feature/hello/world")


def test_packed_references(project: Path, git: Git) -> None:
    git(project, "branch", "main-2")
    git(project, "pack-refs", "--all")
    assert not (project / ".git/refs/heads/main").exists()

    assert head_of(project) == repository.Head(git(project, "rev-parse", "HEAD"), "main")


def test_a_loose_reference_wins_over_the_packed_one_of_old(project: Path, git: Git) -> None:
    git(project, "pack-refs", "--all")
    git(project, "commit", "--quiet", "--allow-empty", "--message", "two")

    assert head_of(project).commit == git(project, "rev-parse", "HEAD")


def test_a_detached_head_has_a_commit_and_no_branch(project: Path, git: Git) -> None:
    git(project, "checkout", "--quiet", "--detach")

    assert head_of(project) == repository.Head(git(project, "rev-parse", "HEAD"), None)


def test_a_head_that_is_a_symbolic_reference_to_another(project: Path, git: Git) -> None:
    git(project, "symbolic-ref", "refs/heads/alias", "refs/heads/main")
    git(project, "symbolic-ref", "HEAD", "refs/heads/alias")

    assert head_of(project).commit == git(project, "rev-parse", "HEAD")


def test_references_that_lead_in_a_circle_end(project: Path) -> None:
    (project / ".git/refs/heads/main").write_text("ref: refs/heads/main\n")

    assert head_of(project) == repository.Head(None, "main")


def test_a_reference_cannot_lead_out_of_the_repository(project: Path) -> None:
    (project / "secret").write_text("a" * 40)
    (project / ".git/HEAD").write_text("ref: refs/../../secret\n")

    assert head_of(project).commit is None


def test_a_new_repository_has_a_branch_and_no_commit(tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")

    assert head_of(tmp_path) == repository.Head(None, "main")


def test_a_worktree_has_its_own_head_and_the_references_of_all(project: Path, git: Git, tmp_path: Path) -> None:
    worktree = tmp_path / "worktree"
    git(project, "worktree", "add", "--quiet", "-b", "side", str(worktree))
    git(worktree, "commit", "--quiet", "--allow-empty", "--message", "on the side")
    side = git(worktree, "rev-parse", "HEAD")

    assert head_of(worktree / "flow.py") == repository.Head(side, "side")
    git(project, "pack-refs", "--all")
    assert head_of(worktree / "flow.py") == repository.Head(side, "side")
    assert head_of(project).branch == "main"


def test_a_worktree_with_relative_paths_as_git_sync_writes_them(project: Path, git: Git, tmp_path: Path) -> None:
    worktree = project / ".worktrees" / "rev"
    git(project, "worktree", "add", "--quiet", "--detach", str(worktree))
    (worktree / ".git").write_text("gitdir: ../../.git/worktrees/rev\n")
    commit = git(project, "rev-parse", "HEAD")
    moved = project.rename(tmp_path / "mounted-elsewhere")
    (tmp_path / "dags").symlink_to(moved / ".worktrees" / "rev")

    assert head_of(tmp_path / "dags" / "flow.py").commit == commit


def test_a_submodule_is_a_repository_of_its_own(project: Path, git: Git, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "--quiet", "--initial-branch=trunk")
    git(outer, "submodule", "--quiet", "add", str(project), "inner")
    git(outer, "commit", "--quiet", "--message", "with a submodule")

    assert head_of(outer / "inner" / "flow.py").commit == git(project, "rev-parse", "HEAD")
    assert head_of(outer / "inner").commit != git(outer, "rev-parse", "HEAD")


def test_a_shallow_clone(project: Path, git: Git, tmp_path: Path) -> None:
    git(project, "commit", "--quiet", "--allow-empty", "--message", "two")
    git(tmp_path, "clone", "--quiet", "--depth=1", project.as_uri(), "shallow")

    assert head_of(tmp_path / "shallow") == repository.Head(git(project, "rev-parse", "HEAD"), "main")


def test_a_bare_repository_has_no_working_tree(project: Path, git: Git, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(project), "bare.git")

    found = repository.find(tmp_path / "bare.git" / "hooks" / "post-receive")

    assert found is not None
    assert found.root is None
    assert repository.head(found) == repository.Head(git(project, "rev-parse", "HEAD"), "main")


def test_a_sha_256_repository(tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "--quiet", "--object-format=sha256", "--initial-branch=main")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "one")

    commit = head_of(tmp_path).commit

    assert commit == git(tmp_path, "rev-parse", "HEAD")
    assert len(commit) == 64


def test_no_repository(tmp_path: Path) -> None:
    assert repository.find(tmp_path / "not" / "there.zip" / "dag.py") is None


@pytest.mark.parametrize("text", ["", "gitdir:", "gitdir: /nowhere", "\0\0", "x" * 100_000])
def test_a_damaged_pointer_file_is_no_repository(tmp_path: Path, text: str) -> None:
    (tmp_path / ".git").write_text(text)

    assert repository.find(tmp_path) is None


@pytest.mark.parametrize("text", ["", "rubbish", "ref:", "ref: ", "ref: HEAD", "\0", "ref: refs/heads/.invalid"])
def test_a_damaged_head_is_a_repository_that_knows_nothing(project: Path, text: str) -> None:
    (project / ".git/HEAD").write_text(text)

    assert head_of(project).commit is None


def test_tags_at_a_commit_loose_and_packed_annotated_and_not(project: Path, git: Git) -> None:
    commit = git(project, "rev-parse", "HEAD")
    git(project, "tag", "v1")
    git(project, "tag", "--annotate", "--message", "first", "release/1")
    git(project, "pack-refs", "--all")
    git(project, "tag", "light")
    git(project, "tag", "--annotate", "--message", "second", "heavy")
    git(project, "commit", "--quiet", "--allow-empty", "--message", "two")
    git(project, "tag", "later")
    found = repository.find(project)

    assert found is not None
    assert repository.tags_at(found, commit) == ("heavy", "light", "release/1", "v1")
    assert repository.tags_at(found, git(project, "rev-parse", "HEAD")) == ("later",)
