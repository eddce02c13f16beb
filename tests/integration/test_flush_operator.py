"""`tracklayer flush` on a bad day: what is wrong with one journal, one folder, one typed word, and who is told what."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.command import Ended
from harness.leaving import opening_of, story
from harness.proxy import Answer, refused_port
from tracklayer.backend import open_backend
from tracklayer.cli import main
from tracklayer.cli.flushing import Flusher
from tracklayer.cli.terminal import Terminal
from tracklayer.exceptions import NotFound
from tracklayer.journal.bell import Latch
from tracklayer.journal.carrying import SUFFIX
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.inheritance import carry_away
from tracklayer.journal.live import LiveJournal
from tracklayer.journal.operations import Artifact, End, Header, Log, Point
from tracklayer.journal.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.proxy import RecordingProxy
    from tracklayer.settings import Settings

ENDED = 1_700_000_009_000
UPLOADS = "/api/2.0/mlflow-artifacts"
PAGE = Path(__file__).parents[2] / "docs/how-to/deliver-what-is-left.md"


@pytest.fixture
def name() -> str:
    return f"operator-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def flush(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def run(*arguments: str, command: str = "flush") -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main((command, *arguments))
        told = capsys.readouterr()
        return Ended(int(ended.value.code or 0), told.out, told.err)

    return run


def paths(settings: Settings) -> list[Path]:
    return JournalFolder(Path(str(settings.journal))).paths()


def stray(settings: Settings, uri: str, *, version: int = 1) -> Path:
    """A journal of a process that died long ago, with one param in it."""
    header = Header(version, uri, "pod-1", 1, 1_600_000_000_000)
    journal = LiveJournal(JournalFolder(Path(str(settings.journal))), header, limit=1_048_576)
    journal.append(Log("a", params={"lr": "0.1"}))
    assert journal.path
    path = journal.path
    journal.close(remove=False)
    return path


def leave(
    settings: Settings,
    proxy: RecordingProxy,
    name: str,
    *more: Log,
    artifact: bytes | None = None,
    url: str | None = None,
) -> Path:
    """A stage that ended while the server was away; its journal, or where that was carried."""
    backend = open_backend(settings)
    assert backend
    before = set(paths(settings))
    with proxy.refused():
        recorder = Recorder(backend, settings)
        local = recorder.begin(opening_of(name), wait=0).ref.run_id
        for operation in more:
            recorder.append(Log(local, operation.points, operation.params, operation.tags))
        if artifact is not None:
            recorder.append(Artifact(local, "model/weights.bin", recorder.keep(artifact)))
        recorder.append(End(local, "FINISHED", ENDED))
        assert not recorder.close(carry=url)
    if url is not None:
        [packed] = Path(url).glob(f"*{SUFFIX}")
        return packed
    [journal] = set(paths(settings)) - before
    return journal


def test_what_is_wrong_with_one_journal_keeps_no_other_from_delivery(
    settings: Settings, proxy: RecordingProxy, name: str, flush: Callable[..., Ended]
) -> None:
    stray(settings, "http://[half")
    later = stray(settings, proxy.uri, version=99)
    nameless = stray(settings, proxy.uri)
    [segment] = nameless.glob("*.seg")
    segment.write_bytes(b"\xff" * 64 + segment.read_bytes()[64:])
    good = leave(settings, proxy, name)
    assert good == paths(settings)[-1]
    done = flush()
    assert (done.code, done.out) == (1, "1 journal delivered, 3 left.\n"), done.err
    assert "http://[half cannot be delivered: " in done.err
    for journal in (later, nameless):
        assert f"{journal.name} cannot be read, or a later version wrote it" in done.err
    told = json.loads(flush("--format", "json", command="doctor").out)
    texts = [finding["text"] for finding in told["findings"] if finding["section"] == "Journal"]
    for part in (
        "1 journal with 1 operation for http://[half, the oldest of ",
        "cannot be delivered: a later version of tracklayer wrote it",
        "cannot be delivered: it does not say for which server it is",
    ):
        assert any(part in text for text in texts), texts


def test_a_run_that_may_not_be_changed_any_more_is_no_server_that_is_away(
    settings: Settings, proxy: RecordingProxy, name: str, flush: Callable[..., Ended]
) -> None:
    """All of the first one is delivered, but for the end of its run, which is not its user's any more."""
    run_id, _ = story(settings, name, "flush")
    [died] = paths(settings)
    died.rename(died.with_name(f"1{died.name[1:]}"))
    leave(settings, proxy, f"{name}-2")
    denied = b'{"error_code": "PERMISSION_DENIED", "message": "not yours"}'
    proxy.fault(
        lambda handler: Answer(403, denied) if run_id.encode() in handler.body else handler.forwarded(),
        path="runs/update",
        times=100,
    )
    done = flush()
    assert (done.code, done.out) == (1, "1 journal delivered, 1 left.\n"), done.err
    assert "not yours" in done.err
    proxy.forget()
    assert flush().code == 0
    assert paths(settings) == []


@pytest.mark.parametrize("carried", [False, True])
def test_what_was_refused_is_kept_whole(
    settings: Settings, proxy: RecordingProxy, name: str, flush: Callable[..., Ended], tmp_path: Path, carried: bool
) -> None:
    place = str(tmp_path / "bucket") if carried else None
    points = tuple(Point("bad//name", 0.5, 1_700_000_001_000 + step, step) for step in range(2))
    journal = leave(settings, proxy, name, Log("", points), artifact=b"weights", url=place)
    proxy.answer(413, path=UPLOADS)
    arguments = ("--from", place, "--tracking-uri", proxy.uri) if place else ()
    done = flush(*arguments)
    assert (done.code, done.out) == (3, "1 journal delivered, 3 values refused.\n"), done.err
    base = journal.name.removesuffix(SUFFIX)
    if place:
        letters = Path(place, f"{base}.refused.jsonl")
        assert f"kept beside it: {letters.name}" in done.err
        assert flush(*arguments).out == "There is nothing to deliver.\n"
    else:
        letters = journal / "refused.jsonl"
        assert flush().out == "There is nothing to deliver.\n"
    assert letters.stat().st_mode & 0o777 == 0o600
    told = [json.loads(line) for line in letters.read_text().splitlines()]
    metrics = [
        (item["key"], item["value"], item["timestamp"], item["step"]) for item in told if item["kind"] == "metric"
    ]
    assert metrics == [("bad//name", "0.5", point.timestamp, point.step) for point in points]
    [artifact] = [item for item in told if item["kind"] == "artifact"]
    assert "step" not in artifact
    copy = letters.with_name(f"{base}.refused-{artifact['value']}") if place else journal / "files" / artifact["value"]
    assert copy.read_bytes() == b"weights"
    assert copy.stat().st_mode & 0o777 == 0o600
    if not place:
        send_again(journal, settings, artifact["run"])


def test_what_was_refused_leaves_with_the_disk(
    settings: Settings, proxy: RecordingProxy, name: str, flush: Callable[..., Ended], tmp_path: Path
) -> None:
    """All of it is delivered, but for that; and of a child that was killed all is, but for the end of its run."""
    since = time.time_ns() // 1_000_000 - 1_000
    place = tmp_path / "bucket"
    backend = open_backend(settings)
    assert backend
    recorder = Recorder(backend, settings)
    local = recorder.begin(opening_of(name), wait=20).ref.run_id
    recorder.append(Log(local, params={"no//such": "key"}))
    recorder.append(End(local, "FINISHED", ENDED))
    assert recorder.close(carry=str(place))
    [packed] = place.iterdir()
    done = flush("--from", str(place), "--tracking-uri", proxy.uri)
    assert done.code == 0, done.err
    [letters] = place.iterdir()
    assert letters.name == f"{packed.name.removesuffix(SUFFIX)}.refused.jsonl"
    assert json.loads(letters.read_text())["key"] == "no//such"
    story(settings, f"{name}-2", "flush")
    assert len(carry_away(settings, str(place), since=since)) == 2, (
        "the one that was refused something, and the child's"
    )
    assert flush("--from", str(place), "--tracking-uri", proxy.uri).code == 0
    experiment = backend.store.get_experiment_by_name(f"{name}-2")
    assert experiment
    found = backend.store.search_runs([experiment.experiment_id])
    assert {run.name: run.status for run in found} == {"r1": "RUNNING", "train": "KILLED", "fold": "KILLED"}


def send_again(journal: Path, settings: Settings, run_id: str) -> None:
    """As the how-to page says, once the reason is gone."""
    [program] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    letters = journal / "refused.jsonl"
    letters.write_text(letters.read_text().replace("bad//name", "loss"))
    backend = open_backend(settings)
    assert backend
    environ = {**os.environ, "MLFLOW_TRACKING_URI": str(settings.tracking_uri)}
    command = [sys.executable, "-c", program, str(journal)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    run = backend.store.get_run(run_id)
    assert run.metrics == {"loss": 0.5}
    assert backend.store.read_artifact(run, "model/weights.bin") == b"weights"


def test_what_somebody_may_have_meant_is_told(
    settings: Settings, proxy: RecordingProxy, name: str, flush: Callable[..., Ended], tmp_path: Path
) -> None:
    for typed in (("--interval", "0", "--watch"), ("--interval", "999999w", "--watch")):
        assert flush(*typed).code == 2
    done = flush("--from", str(tmp_path / "bukcet"))
    assert done.code == 1
    assert f"there is no folder {tmp_path / 'bukcet'}" in done.err
    for done in (flush(), flush("ls", command="journal")):
        assert done.code == 0
        assert f"There is no folder {settings.journal}" in done.err, "as with a slip in a unit's TRACKLAYER_JOURNAL"
    journal = leave(settings, proxy, name)
    done = flush("--from", str(settings.journal), "--tracking-uri", proxy.uri)
    assert done.code == 1
    assert "1 journal in" in done.err
    assert "TRACKLAYER_JOURNAL" in done.err
    with refused_port() as elsewhere:
        moved = stray(settings, elsewhere)
        done = flush("--tracking-uri", proxy.uri, "--instead-of", f"{elsewhere}/")
        assert (done.code, done.out) == (3, "2 journals delivered, 1 value refused.\n"), "there is no run 'a' there"
        shutil.rmtree(moved)
        journal = leave(settings, proxy, name)
        done = flush("--tracking-uri", elsewhere)
    assert "1 journal for other servers" in done.err
    packed = journal.with_name(f"{journal.name}{SUFFIX}")
    packed.touch()
    if os.geteuid() == 0:
        os.chown(journal, 65534, 65534)
        done = flush()
        assert (done.code, done.out) == (0, "There is nothing to deliver.\n")
        assert "1 journal of other users" in done.err
        assert "1 packed journal in" in done.err
        os.chown(journal, 0, 0)
    assert flush("--from", str(settings.journal)).code == 1, "an empty file is no journal"
    claim = packed.with_name(f"{packed.name}.claim-{time.time_ns() // 1_000_000}-0123456789abcdef")
    claim.touch()
    done = flush("--from", str(settings.journal))
    assert done.code == 1
    assert f"{packed.name}: somebody else delivers it" in done.err


def test_a_folder_of_somebody_else_is_not_taken_for_an_empty_one(
    flush: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it is run by another user than the pipelines."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user for a while")
    private = tmp_path / "private"
    (private / "journal").mkdir(mode=0o700, parents=True)
    private.chmod(0o700)
    monkeypatch.setenv("TRACKLAYER_JOURNAL", str(private / "journal"))
    monkeypatch.chdir("/")
    for command, *arguments in (["flush"], ["journal", "ls"], ["journal", "verify"]):
        assert flush(*arguments, command=command).code == 0  # and what it needs is imported by now
        os.seteuid(65534)
        try:
            done = flush(*arguments, command=command)
        finally:
            os.seteuid(0)
        assert done.code == 1
        assert f"{private / 'journal'} cannot be read: Permission denied" in done.err
        assert done.out == ""


def test_watching_goes_on_where_the_folder_of_carried_journals_is_away_and_stops_when_told(
    settings: Settings, proxy: RecordingProxy, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def flusher(source: str | None, *, watching: bool) -> Flusher:
        return Flusher(Terminal(), settings, source=source, only_here=False, watching=watching)

    away = str(tmp_path / "share")
    with pytest.raises(NotFound):
        flusher(away, watching=False).round()
    outcome = flusher(away, watching=True).round()
    assert (outcome.unknown, outcome.left) == (True, 0)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"Error: there is no folder {away}\n")
    with refused_port() as elsewhere:
        journal = stray(settings, elsewhere)
        watcher = flusher(None, watching=True)
        for said in (True, False):
            assert watcher.round().left == 1
            told = capsys.readouterr()
            assert ("cannot reach" in told.err, "1 left" in told.out) == (said, said), (
                "what does not change is said once"
            )
        shutil.rmtree(journal)
    leave(settings, proxy, name)
    proxy.forget()
    stop = Latch()
    stop.open()
    outcome = flusher(None, watching=True).round(stop)
    assert (outcome.delivered, outcome.left) == (0, 1)
    assert proxy.calls == []
    assert flusher(None, watching=True).round(Latch()).delivered == 1


def test_who_is_terminated_in_the_middle_leaves_no_claim(
    settings: Settings, proxy: RecordingProxy, name: str, tmp_path: Path
) -> None:
    """As a job of Kubernetes is that takes too long; it would keep everybody else from the journal for an hour."""
    place = tmp_path / "bucket"
    packed = leave(settings, proxy, name, url=str(place))
    proxy.silence(times=100)
    command = [sys.executable, "-c", "from tracklayer.cli import main; main()", "flush", "--from", str(place)]
    environ = {**os.environ, "MLFLOW_TRACKING_URI": proxy.uri}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        deadline = time.monotonic() + 60
        while not proxy.requests and len(list(place.iterdir())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=60)
    assert program.returncode == 128 + signal.SIGTERM
    assert list(place.iterdir()) == [packed]
