"""Of several who deliver from one folder of packed journals one has each, on a store that copies where others rename."""

from __future__ import annotations

import random
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tracklayer.journal import claim
from tracklayer.journal.carrying import SUFFIX, CarryingError, RemoteShelf, carried, fetched
from tracklayer.journal.claim import TAKEN, claimed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOURNAL = f"20261121T000000Z-host-1-00000000{SUFFIX}"


class Slow:
    """A file system of fsspec's each of whose requests takes a time of its own."""

    def __init__(self, files: Any, seed: int) -> None:
        self._files = files
        self._dice = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        action = getattr(self._files, name)

        def later(*args: Any, **options: Any) -> Any:
            time.sleep(self._dice.uniform(0, 0.004))
            try:
                return action(*args, **options)
            finally:
                time.sleep(self._dice.uniform(0, 0.004))

        return later


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    root = f"memory://{tmp_path.name}"
    packed = tmp_path / "packed"
    with tarfile.open(packed, "w:gz"):
        pass
    RemoteShelf(files, f"/{tmp_path.name}").put(JOURNAL, packed)
    yield root
    files.rm(f"/{tmp_path.name}", recursive=True)


def test_never_two_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec  # type: ignore[import-untyped,unused-ignore]

    monkeypatch.setattr(claim, "PAUSE", 0.02)
    files, root = fsspec.core.url_to_fs(bucket)
    inside, most, had = 0, 0, 0
    counting = threading.Lock()

    def reader(number: int) -> None:
        nonlocal inside, most, had
        place = RemoteShelf(Slow(files, number), root)
        for _ in range(12):
            try:
                with claimed(place, JOURNAL):
                    with counting:
                        inside += 1
                        most = max(most, inside)
                        had += 1
                    time.sleep(0.005)
                    with counting:
                        inside -= 1
            except claim.Claimed:
                time.sleep(0.005)

    threads = [threading.Thread(target=reader, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert had > 5
    assert carried(bucket) == [JOURNAL]


def test_only_one_takes_it_from_a_store_that_copies(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "PAUSE", 0.0)
    with fetched(bucket, JOURNAL) as (folder, fate):
        assert carried(bucket) == []
        with pytest.raises(CarryingError, match="somebody else"), fetched(bucket, JOURNAL):
            pass
        assert folder.is_dir()
        fate.delivered = True
    assert carried(bucket) == []
    with pytest.raises(CarryingError, match="not there any more"), fetched(bucket, JOURNAL):
        pass


def test_a_dead_reader_holds_it_for_an_hour(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / JOURNAL, "w:gz"):
        pass
    now = time.time_ns() // 1_000_000
    recent = tmp_path / f"{JOURNAL}.claim-{now - 1_000}-0123456789abcdef"
    recent.touch()
    assert carried(str(tmp_path)) == []
    recent.rename(tmp_path / f"{JOURNAL}.claim-{now - int(TAKEN * 1_000) - 1_000}-0123456789abcdef")
    assert carried(str(tmp_path)) == [JOURNAL]
    with fetched(str(tmp_path), JOURNAL) as (_, fate):
        fate.delivered = True
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "RENEWED", 0.05)
    with tarfile.open(tmp_path / JOURNAL, "w:gz"):
        pass

    def claims() -> set[str]:
        return {path.name for path in tmp_path.iterdir() if ".claim-" in path.name}

    with fetched(str(tmp_path), JOURNAL):
        first = claims()
        deadline = time.monotonic() + 10
        while claims() & first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not claims() & first
        assert carried(str(tmp_path)) == []
    assert carried(str(tmp_path)) == [JOURNAL]
    assert claims() == set()
