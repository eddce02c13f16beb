from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tracklayer.exceptions import NotFound, Refused, StoreError, StoreUnavailable
from tracklayer.store import artifacts

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The artifacts of a run, as a server that keeps them in a folder names it."""
    (tmp_path / "mlartifacts").mkdir()
    return tmp_path / "mlartifacts" / "7" / "run" / "artifacts"


def test_an_artifact_in_a_folder(root: Path) -> None:
    artifacts.write(root, "plots/roc.png", b"old", here=False)
    artifacts.write(root, "plots/roc.png", b"new", here=False)
    assert artifacts.read(root, "plots/roc.png") == b"new"
    assert [path.name for path in (root / "plots").iterdir()] == ["roc.png"]


def test_others_may_read_it_as_the_umask_says(root: Path) -> None:
    mask = os.umask(0o027)
    try:
        artifacts.write(root, "a", b"a", here=False)
        assert stat.S_IMODE((root / "a").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)


def test_half_an_artifact_is_never_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts.write(root, "a", b"whole", here=False)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(StoreError, match="No space left"):
        artifacts.write(root, "a", b"another", here=False)
    assert artifacts.read(root, "a") == b"whole"
    assert [path.name for path in root.iterdir()] == ["a"]


def test_a_folder_of_another_machine(tmp_path: Path) -> None:
    away = tmp_path / "srv" / "mlartifacts" / "7" / "run" / "artifacts"
    for here in (False, True):
        with pytest.raises(StoreError, match="start the server with --artifacts-destination"):
            artifacts.write(away, "a", b"a", here=here)
    assert not (tmp_path / "srv").exists()
    with pytest.raises(NotFound):
        artifacts.read(away, "a")


def test_the_first_artifact_of_a_server_on_this_machine(tmp_path: Path) -> None:
    first = tmp_path / "mlartifacts" / "7" / "run" / "artifacts"
    artifacts.write(first, "a", b"a", here=True)
    assert artifacts.read(first, "a") == b"a"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/srv/x/artifacts", "/srv/x/artifacts"),
        ("file:///srv/a%20b", "/srv/a b"),
        ("file://localhost/srv", "/srv"),
        ("file://elsewhere/srv", None),
        ("s3://bucket/x", None),
        ("mlflow-artifacts:/7/r/artifacts", None),
        ("", None),
    ],
)
def test_which_uris_are_folders(uri: str, path: str | None) -> None:
    found = artifacts.folder(uri)
    assert (None if found is None else str(found)) == path


@pytest.mark.parametrize("path", ["", ".", "a/", "/a", "../a", "a/../b", "C:\\x", "c:x", "a//b"])
def test_paths_that_lead_astray(path: str) -> None:
    with pytest.raises(Refused):
        artifacts.checked(path)


def test_a_scheme_that_nobody_knows() -> None:
    with pytest.raises(StoreError, match="cloud9") as failure:
        artifacts.upload("cloud9://ann:s3cret@bucket/7", "a", b"a")
    assert not isinstance(failure.value, StoreUnavailable)
    assert "s3cret" not in str(failure.value)


def test_artifacts_of_a_server_that_is_not_the_tracking_server() -> None:
    with pytest.raises(StoreError, match="only be reached through the MLflow server"):
        artifacts.download("mlflow-artifacts://other:5000/7/run/artifacts", "a")


def test_without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(StoreError, match="need the mlflow library"):
        artifacts.upload("s3://bucket/7", "a", b"a")
