from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pluggy
import pytest

from tracklayer import dispatch, hookspecs
from tracklayer.context import RunContext, WorkflowRun
from tracklayer_git import plugin, repository, status

Git = Callable[..., str]
COMMIT, BRANCH = "mlflow.source.git.commit", "mlflow.source.git.branch"
REPOSITORY, DIRTY, TAG = "mlflow.source.git.repoURL", "tracklayer.git.dirty", "tracklayer.git.tag"
SHA = "1234567890abcdef1234567890abcdef12345678"


def tags(source: Path | str | None) -> Mapping[str, str]:
    """The tags as core asks for them."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name="git")
    manager.check_pending()
    workflow_run = WorkflowRun(
        orchestrator="script", workflow="flights", run_id="1", source=None if source is None else str(source)
    )
    return dispatch.run_tags(manager, RunContext(workflow_run=workflow_run), strict=True)


def test_everything_that_is_known(project: Path, git: Git) -> None:
    git(project, "remote", "add", "origin", "https://me:s3cret@example.com/team/flights.git")
    git(project, "tag", "v2")
    git(project, "tag", "v1")

    assert tags(project / "flow.py") == {
        COMMIT: git(project, "rev-parse", "HEAD"),
        BRANCH: "main",
        REPOSITORY: "https://example.com/team/flights.git",
        DIRTY: "false",
        TAG: "v1, v2",
    }


def test_the_working_directory_where_the_source_is_in_no_repository(
    project: Path, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tags(None) == tags(tmp_path / "flow.py") == {}
    monkeypatch.chdir(project)
    commit = git(project, "rev-parse", "HEAD")
    assert tags(None)[COMMIT] == tags(tmp_path / "flow.py")[COMMIT] == commit


def test_the_repository_of_the_source_wins_over_that_of_the_working_directory(
    project: Path, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--quiet", str(project), "other")
    git(tmp_path / "other", "commit", "--quiet", "--allow-empty", "--message", "two")
    monkeypatch.chdir(tmp_path / "other")

    assert tags(project / "flow.py")[COMMIT] == git(project, "rev-parse", "HEAD")


def test_our_variables_win_and_take_nothing_from_another_commit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_GIT_COMMIT", SHA)

    assert tags(project / "flow.py") == {COMMIT: SHA}


def test_a_variable_adds_to_what_the_repository_knows(project: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_GIT_REPOSITORY", "https://example.com/team/flights")

    found = tags(project / "flow.py")

    assert (found[COMMIT], found[REPOSITORY]) == (git(project, "rev-parse", "HEAD"), "https://example.com/team/flights")


def test_ci_names_the_branch_of_a_detached_head_of_the_same_commit_only(
    project: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(project, "rev-parse", "HEAD")
    git(project, "checkout", "--quiet", "--detach")
    monkeypatch.setenv("GITHUB_SHA", SHA)
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    assert tags(project / "flow.py") == {COMMIT: commit, DIRTY: "false"}
    monkeypatch.setenv("GITHUB_SHA", commit)
    assert tags(project / "flow.py") == {COMMIT: commit, DIRTY: "false", BRANCH: "main"}


def test_ci_where_there_is_no_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_COMMIT_SHA", SHA)
    monkeypatch.setenv("CI_COMMIT_TAG", "v3")

    assert tags(None) == {COMMIT: SHA, TAG: "v3"}


def test_dirty_means_tracked_files_changed_or_staged(project: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "FRESH", 0.0)
    (project / "notes.txt").write_text("untracked")
    assert tags(project)[DIRTY] == "false"
    (project / "flow.py").write_text("print('two')\n")
    assert tags(project)[DIRTY] == "true"
    git(project, "add", "flow.py")
    assert tags(project)[DIRTY] == "true"
    git(project, "commit", "--quiet", "--message", "two")
    assert tags(project)[DIRTY] == "false"


def test_an_answer_is_used_again_only_briefly_and_only_for_the_same_state(project: Path, git: Git) -> None:
    assert tags(project)[DIRTY] == "false"
    (project / "flow.py").write_text("print('two')\n")
    git(project, "add", "flow.py")
    assert tags(project)[DIRTY] == "true", "the index has changed, so git was asked again"


def test_a_commit_made_while_the_process_runs_is_seen_at_once(project: Path, git: Git) -> None:
    before = tags(project)[COMMIT]
    git(project, "commit", "--quiet", "--allow-empty", "--message", "two")
    assert tags(project)[COMMIT] == git(project, "rev-parse", "HEAD") != before


def test_without_a_git_binary_all_but_dirty_is_known(project: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(project, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "/nowhere")

    assert tags(project) == {COMMIT: commit, BRANCH: "main"}


def test_a_repository_without_commits_says_nothing_of_dirt(tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    (tmp_path / "flow.py").write_text("")
    git(tmp_path, "add", "flow.py")

    assert tags(tmp_path / "flow.py") == {BRANCH: "main"}


def test_a_bare_repository_is_never_dirty_nor_clean(project: Path, git: Git, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(project), "bare.git")

    assert tags(tmp_path / "bare.git") == {COMMIT: git(project, "rev-parse", "HEAD"), BRANCH: "main"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_git_refuses_a_repository_of_somebody_else_and_the_rest_is_known(
    project: Path, git: Git, caplog: pytest.LogCaptureFixture
) -> None:
    commit = git(project, "rev-parse", "HEAD")
    for path in (project, *project.rglob("*")):
        os.chown(path, 12345, 12345)
    caplog.set_level("INFO")

    assert tags(project) == tags(project) == {COMMIT: commit, BRANCH: "main"}
    assert caplog.text.count("safe.directory") == caplog.text.count("--add safe.directory") > 0
    assert len([record for record in caplog.records if "from now on" in record.message]) == 1


def fake_git(folder: Path, script: str) -> None:
    path = folder / "bin" / "git"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_git_that_hangs_costs_the_time_limit_once_and_leaves_no_process(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # As git does with a filter: a child of its own that keeps the pipe open.
    fake_git(tmp_path, f"sleep 60 & echo $! >> {tmp_path}/children; wait")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TRACKLAYER_GIT_TIMEOUT", "5")
    started = time.monotonic()

    assert DIRTY not in tags(project)
    assert DIRTY not in tags(project)

    assert time.monotonic() - started < 30, "the limit is 5 s, and the command takes 60"
    assert "TRACKLAYER_GIT_TIMEOUT" in caplog.text
    (child,) = map(int, (tmp_path / "children").read_text().split())  # it was asked once
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}/status").exists() and "Z" not in _state(child):
        assert time.monotonic() < deadline, "the child of git is still there"
        time.sleep(0.05)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0]
    except FileNotFoundError:
        return "Z"


def test_no_hook_monitor_or_trace_of_the_repository_is_run_and_nothing_is_written(
    project: Path, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o700)
    git(project, "config", "core.fsmonitor", str(trap))
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    (project / "flow.py").touch()
    before = {path: path.stat().st_mtime_ns for path in (project / ".git").rglob("*")}

    assert tags(project)[DIRTY] == "false"

    assert {path: path.stat().st_mtime_ns for path in (project / ".git").rglob("*")} == before
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "trace").exists()


def test_references_that_only_git_can_read_are_asked_of_git(
    project: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands for reftable, which this machine's git may be too old to make."""
    commit = git(project, "rev-parse", "HEAD")
    monkeypatch.setattr(repository, "head", lambda found: repository.Head(None, None))

    assert tags(project) == {COMMIT: commit, BRANCH: "main", DIRTY: "false"}


def test_it_never_raises(project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(place: Path) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(repository, "find", broken)

    assert tags(project) == {}
    assert "the git tags are left out: MemoryError: no room" in caplog.text


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert tags(None) == {}


def test_a_wrong_time_limit_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACKLAYER_GIT_TIMEOUT", "soon")
    assert tags(project)[DIRTY] == "false"
    assert "TRACKLAYER_GIT_TIMEOUT must be a number of seconds, not 'soon'" in caplog.text
    monkeypatch.setenv("TRACKLAYER_GIT_TIMEOUT", "0")
    plugin._git.cache_clear()
    assert DIRTY not in tags(project)


def test_importing_it_costs_nothing_above_core() -> None:
    code = (
        "import sys, tracklayer.registry; before = set(sys.modules); import tracklayer_git.plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert process.stdout.split() == ["tracklayer_git", "tracklayer_git.plugin"]
