"""`tracklayer flush`, and journals that leave a machine whose disk goes away."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import urllib3

from harness.leaving import opening_of, story
from harness.patience import patient
from harness.proxy import refused_port
from tracklayer.backend import open_backend
from tracklayer.journal.carrying import SUFFIX, CarryingError, carried, fetched, shelf
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.operations import Artifact, End, Log, Point
from tracklayer.journal.recorder import Recorder
from tracklayer.provisional import provisional_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.proxy import RecordingProxy
    from tracklayer.settings import Settings
    from tracklayer.store import Run

COMMAND = [sys.executable, "-c", "from tracklayer.cli import main; main()", "flush"]


@pytest.fixture
def name() -> str:
    return f"flush-{uuid.uuid4().hex[:12]}"


def environment(settings: Settings, **more: str) -> Mapping[str, str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("TRACKLAYER_", "MLFLOW_"))}
    return {**plain, "TRACKLAYER_JOURNAL": str(settings.journal), **more}


def flush(settings: Settings, *arguments: str, uri: str | None = None) -> subprocess.CompletedProcess[str]:
    told = {} if uri is None else {"MLFLOW_TRACKING_URI": uri}
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(settings, **told), capture_output=True, text=True, timeout=120
    )


def left(settings: Settings) -> list[Path]:
    return JournalFolder(Path(str(settings.journal))).paths()


def runs(settings: Settings, name: str) -> dict[str, Run]:
    backend = open_backend(settings)
    assert backend
    backend.store.try_again()
    experiment = backend.store.get_experiment_by_name(name)
    assert experiment
    found = backend.store.search_runs([experiment.experiment_id])
    assert len({run.name for run in found}) == len(found)
    return {run.name: backend.store.get_run(run.run_id) for run in found}


def test_there_is_nothing_to_deliver(settings: Settings) -> None:
    done = flush(settings)
    assert (done.returncode, done.stdout) == (0, "There is nothing to deliver.\n")


def test_what_was_left_behind_is_delivered_to_the_server_that_it_is_for(
    settings: Settings, proxy: RecordingProxy, name: str
) -> None:
    with proxy.refused():
        story(settings, name, "exit")
        story(settings, f"{name}-2", "now")
        assert len(left(settings)) == 2
        done = flush(settings)
        assert done.returncode == 1
        assert "cannot reach the MLflow server" in done.stderr
        assert "2 left" in done.stdout
    with refused_port() as elsewhere:  # the settings may name another server
        done = flush(settings, uri=elsewhere)
    assert (done.returncode, done.stdout) == (0, "2 journals delivered.\n"), done.stderr
    assert left(settings) == []
    assert runs(settings, name)["train"].status == "FINISHED"
    assert runs(settings, f"{name}-2")["train"].status == "KILLED"


def test_who_sits_at_a_terminal_sees_how_far_it_is(settings: Settings, proxy: RecordingProxy, name: str) -> None:
    backend = open_backend(settings)
    assert backend
    with proxy.refused():
        recorder = Recorder(backend, settings)
        run_id = recorder.begin(opening_of(name), wait=0).ref.run_id
        for step in range(10_000):
            recorder.append(Log(run_id, (Point("loss", 1.0, 1, step),)))
        recorder.append(End(run_id, "FINISHED", 1))
        assert not recorder.close()
    [journal] = left(settings)
    terminal, end = os.openpty()
    try:
        with subprocess.Popen(
            COMMAND, env=environment(settings, COLUMNS="150"), stdout=subprocess.PIPE, stderr=end
        ) as program:
            os.close(end)
            seen = b""
            while part := _read(terminal):
                seen += part
            assert program.stdout is not None
            assert program.stdout.read() == b"1 journal delivered.\n"
    finally:
        os.close(terminal)
    assert journal.name in seen.decode()
    percentages = [int(found) for found in re.findall(rb"(\d+) %", seen)]
    assert percentages == sorted(percentages)
    assert any(0 < percentage < 100 for percentage in percentages)
    assert len(set(percentages)) > 2


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so that nobody has its other end any more
        return b""


def _beside(program: str, journal: Path) -> subprocess.Popen[bytes]:
    """A process that does something with the lock of a journal until its standard input ends."""
    head = "import sys; from pathlib import Path; from tracklayer.journal.lock import Lock; path = Path(sys.argv[1]);"
    command = [sys.executable, "-c", f"{head} print(flush=True); {program}", str(journal)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    return other


def test_only_a_journal_that_another_process_holds_is_left_to_that(
    settings: Settings, proxy: RecordingProxy, name: str
) -> None:
    with proxy.refused():
        story(settings, name, "exit")
    [journal] = left(settings)
    with _beside("lock = Lock.take(path); print(flush=True); input()", journal) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        done = flush(settings)
        holder.communicate(b"\n")
    assert (done.returncode, done.stdout) == (0, "There is nothing to deliver.\n")
    assert left(settings) == [journal]
    with _beside("exec('while True: Lock.is_held(path)')", journal) as looker:  # as journal ls, doctor, a scavenger do
        try:
            done = flush(settings)
        finally:
            looker.kill()
    assert (done.returncode, done.stdout) == (0, "1 journal delivered.\n"), done.stderr
    assert left(settings) == []


def test_a_journal_that_comes_before_the_one_that_it_waits_for(
    settings: Settings, proxy: RecordingProxy, name: str
) -> None:
    """Process ids wrap around: a worker's journal may have a name before that of the process that has the stage."""
    backend = open_backend(settings)
    assert backend
    with proxy.refused():
        stage = Recorder(backend, settings)
        local = stage.begin(opening_of(name), wait=1).ref.run_id
        stage.append(End(local, "FINISHED", 1_700_000_009_000))
        worker = Recorder(backend, settings)
        worker.append(Log(local, params={"fold": "1"}))
        for recorder in (stage, worker):
            recorder.close()
    (of_stage,) = [path for path in left(settings) if name.encode() in b"".join(_segments(path))]
    of_stage.rename(of_stage.with_name("9" + of_stage.name[1:]))
    assert [path.name[0] for path in left(settings)] == ["2", "9"]
    done = flush(settings)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 journals delivered.\n", "")
    assert runs(settings, name)["train"].params == {"fold": "1"}


def _segments(journal: Path) -> list[bytes]:
    return [path.read_bytes() for path in journal.glob("*.seg")]


def test_only_what_is_for_one_server(settings: Settings, proxy: RecordingProxy, name: str) -> None:
    with proxy.refused():
        story(settings, name, "exit")
    with refused_port() as elsewhere:
        assert flush(settings, "--tracking-uri", elsewhere).stdout == "There is nothing to deliver.\n"
    assert flush(settings, "--tracking-uri", proxy.uri).returncode == 0
    assert runs(settings, name)["train"].status == "FINISHED"


def test_watching_delivers_as_soon_as_it_can_and_ends_when_told(
    settings: Settings, proxy: RecordingProxy, name: str
) -> None:
    with proxy.refused():
        story(settings, name, "exit")
        watching = subprocess.Popen(
            [*COMMAND, "--watch", "--interval", "0.2s"],
            env=environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        time.sleep(2)
    try:
        deadline = time.monotonic() + 60
        while left(settings):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        story(settings, f"{name}-2", "now")
        while left(settings):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        watching.send_signal(signal.SIGTERM)
        told, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0, told
    assert runs(settings, name)["train"].status == "FINISHED"
    assert runs(settings, f"{name}-2")["train"].status == "KILLED"


def carrying(settings: Settings, url: str) -> Settings:
    return msgspec.structs.replace(settings, carry=url)


@pytest.mark.parametrize("kind", ["file", "path", "fsspec"])
def test_a_journal_is_carried_away_and_delivered_from_there(
    settings: Settings, proxy: RecordingProxy, name: str, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "bucket" / "journals"
    url = {"file": f"file://{place}", "path": str(place), "fsspec": f"simplecache::file://{place}"}[kind]
    if kind == "fsspec":
        pytest.importorskip("fsspec")
    with proxy.refused():
        story(carrying(settings, url), name, "exit")
        assert left(settings) == []
        (packed,) = place.iterdir()
        assert packed.name.endswith(SUFFIX)
        assert stat.S_IMODE(packed.stat().st_mode) == 0o600
        done = flush(settings, "--from", url, uri=proxy.uri)
        assert done.returncode == 1
        assert "cannot reach the MLflow server" in done.stderr
        assert list(place.iterdir()) == [packed]
    done = flush(settings, "--from", url, uri=proxy.uri)
    assert (done.returncode, done.stdout) == (0, "1 journal delivered.\n"), done.stderr
    assert list(place.iterdir()) == []
    assert left(settings) == []
    found = runs(settings, name)
    assert found["train"].status == "FINISHED"
    assert found["fold"].metrics == {"loss": 2_499.0}
    backend = open_backend(settings)
    assert backend
    assert backend.store.read_artifact(found["train"], "notes/a.txt") == b"hello"


@pytest.mark.parametrize("kind", ["path", "fsspec"])
def test_what_is_found_out_about_a_carried_journal_that_stays_is_put_back_with_it(
    settings: Settings, proxy: RecordingProxy, name: str, tmp_path: Path, kind: str
) -> None:
    """Nothing of it counts as delivered: its first run waits for another machine. One of the others knows of a refusal."""
    place = tmp_path / "bucket"
    url = f"simplecache::file://{place}" if kind == "fsspec" else str(place)
    if kind == "fsspec":
        pytest.importorskip("fsspec")
    backend = open_backend(settings)
    assert backend
    run = backend.store.create_run(backend.store.create_experiment(name, {}), name="train", start_time=1, tags={})
    backend.store.log_batch(run.run_id, params={"lr": "0.1"})
    with proxy.refused():
        recorder = Recorder(backend, carrying(settings, url))
        recorder.append(Log(provisional_id(), (Point("loss", 1.0, 1),)))
        recorder.append(Log(run.run_id, params={"lr": "0.2"}))
        assert not recorder.close(carry=url)

    def attempt() -> list[str]:
        """The values of the tag that is set meanwhile."""
        assert flush(settings, "--from", url, uri=proxy.uri).returncode == 1
        [packed] = place.iterdir()
        assert stat.S_IMODE(packed.stat().st_mode) == 0o600
        tags = [tag for request in proxy.of("runs/log-batch") for tag in request.json.get("tags", [])]
        proxy.forget()
        return [tag["value"] for tag in tags if tag["key"] == "tracklayer.refused"]

    proxy.answer(503, path="runs/log-batch", times=100)
    assert attempt() == []  # this far it has come once and for all
    assert attempt() == ["1: param lr: the run has it as '0.1'"]
    assert attempt() == []


@pytest.mark.parametrize("kind", ["path", "fsspec"])
@pytest.mark.parametrize("where", ["nowhere", "full", "crammed"])
def test_what_is_in_memory_only_is_carried_away_and_delivered_from_there(
    proxy: RecordingProxy,
    name: str,
    small_disk: Path,
    tmp_path: Path,
    where: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is written; or only as much as there was room for; and then there is not even room for the packed journal."""
    place = tmp_path / "bucket"
    url = f"simplecache::file://{place}" if kind == "fsspec" else str(place)
    if kind == "fsspec":
        pytest.importorskip("fsspec")
    settings = patient(proxy.uri, journal="off" if where == "nowhere" else str(small_disk), carry=url)
    backend = open_backend(settings)
    assert backend
    content = random.Random(1).randbytes(300_000)
    with proxy.refused():
        recorder = Recorder(backend, settings)
        local = recorder.begin(opening_of(name), wait=1).ref.run_id
        for step in range(2_000):
            recorder.append(Log(local, (Point("loss", float(step), 1_700_000_001_000, step),)))
        recorder.append(Artifact(local, "notes/small.txt", recorder.keep(b"hello")))
        with (small_disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        for step in range(2_000, 4_000):
            recorder.append(Log(local, (Point("loss", float(step), 1_700_000_001_000, step),)))
        recorder.append(Artifact(local, "notes/big.bin", recorder.keep(content)))
        recorder.append(Log(local, params={"lr": "0.1"}))
        recorder.append(End(local, "FINISHED", 1_700_000_009_000))
        if where == "crammed":
            monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
        caplog.set_level("DEBUG", "tracklayer")
        assert not recorder.close()
        monkeypatch.undo()
    assert ("packed in memory" in caplog.text) is (where == "crammed")
    assert "are lost with this process" not in caplog.text
    assert JournalFolder(small_disk).paths() == []
    done = flush(settings, "--from", url, uri=proxy.uri)
    assert (done.returncode, done.stdout) == (0, "1 journal delivered.\n"), done.stderr
    assert list(place.iterdir()) == []
    run = runs(settings, name)["train"]
    assert (run.status, run.params, run.metrics) == ("FINISHED", {"lr": "0.1"}, {"loss": 3_999.0})
    assert "tracklayer.refused" not in run.tags
    query = f"{proxy.uri}/api/2.0/mlflow/metrics/get-history?run_id={run.run_id}&metric_key=loss&max_results=25000"
    assert len(json.loads(urllib3.request("GET", query).data)["metrics"]) == 4_000
    assert backend.store.read_artifact(run, "notes/small.txt") == b"hello"
    assert backend.store.read_artifact(run, "notes/big.bin") == content


def test_what_was_carried_is_sent_to_no_server_but_the_reader_s_own(
    settings: Settings, proxy: RecordingProxy, name: str, tmp_path: Path
) -> None:
    url = f"file://{tmp_path / 'bucket'}"
    with proxy.refused():
        story(carrying(settings, url), name, "exit")
    proxy.forget()
    with refused_port() as elsewhere:
        done = flush(settings, "--from", url, uri=elsewhere)
    assert done.returncode == 1
    assert proxy.uri in done.stderr
    assert proxy.requests == []
    assert len(carried(url)) == 1


def test_what_is_delivered_in_time_is_not_carried_anywhere(settings: Settings, name: str, tmp_path: Path) -> None:
    story(carrying(settings, str(tmp_path / "bucket")), name, "exit")
    assert not (tmp_path / "bucket").exists()


def test_only_one_takes_what_was_carried(tmp_path: Path) -> None:
    url = str(tmp_path)
    journal = f"20261121T000000Z-host-1-00000000{SUFFIX}"
    with tarfile.open(tmp_path / journal, "w:gz"):
        pass
    with fetched(url, journal) as (folder, fate):
        assert carried(url) == []
        with pytest.raises(CarryingError), fetched(url, journal):
            pass
        assert folder.is_dir()
    assert carried(url) == [journal]
    with fetched(url, journal) as (_, fate):
        fate.delivered = True
    assert carried(url) == []


def test_nothing_but_a_journal_comes_out_of_what_was_carried(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("evil")
    journal = f"20261121T000000Z-host-1-00000000{SUFFIX}"
    (tmp_path / "shelf").mkdir()
    with tarfile.open(tmp_path / "shelf" / journal, "w:gz") as archive:
        for inside in ("../outside", "/outside", "files/../../outside", "lock", "progress", "other/progress"):
            archive.add(tmp_path / "evil", inside)
        link = tarfile.TarInfo("refused.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "evil")
        archive.addfile(link)
    with fetched(str(tmp_path / "shelf"), journal) as (folder, _):
        assert sorted(path.name for path in folder.rglob("*")) == ["files", "progress"]


def test_a_place_that_nobody_knows() -> None:
    with pytest.raises(CarryingError, match=r"knows no such kind of URL|needs fsspec"):
        shelf("nowhere-at-all://bucket/journals")


def test_the_doctor_says_what_is_left_and_what_was_refused(
    settings: Settings, proxy: RecordingProxy, name: str
) -> None:
    def doctor() -> dict[str, str]:
        done = subprocess.run(
            [*COMMAND[:-1], "doctor", "--format", "json"],
            env=environment(settings, MLFLOW_TRACKING_URI=proxy.uri),
            capture_output=True,
            text=True,
            timeout=120,
        )
        findings = json.loads(done.stdout)["findings"]
        return {finding["name"]: finding["text"] for finding in findings if finding["section"] == "Journal"}

    assert set(doctor()) == {"delivered"}
    with proxy.refused():
        story(settings, name, "exit")
        assert proxy.uri in doctor()["left"]
    assert flush(settings).returncode == 0
    assert set(doctor()) == {"folder", "delivered"}
    backend = open_backend(settings)
    assert backend
    recorder = Recorder(backend, settings)
    local = recorder.begin(opening_of(f"{name}-2"), wait=20).ref.run_id
    recorder.append(Log(local, params={"no//such": "key"}))
    recorder.append(End(local, "FINISHED", 1_700_000_002_000))
    assert recorder.close()
    assert doctor()["refused"].startswith(f"param no//such of run {recorder.resolve(local)}: ")
