"""What waits in a journal that was left behind is tried again by each who finds it; what is delivered behind it is not.

Others go on with a run once it is delivered: they tag it, rename it, replace its files, open it again. The next pass
over the same journal is to leave that alone, however long something else in the journal waits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlflow
import pytest

from harness.leaving import BEGAN
from harness.proxy import Answer
from tracklayer.journal.folder import JournalFolder
from tracklayer.journal.inspection import inspect
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.recovery import Recovery, left_behind
from tracklayer.provisional import id_tag, provisional_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.proxy import RecordingProxy
    from tracklayer.backend import Backend
    from tracklayer.settings import Settings
    from tracklayer.store import Run

FILES: Final = "/api/2.0/mlflow-artifacts"

NO_DISK: Final = Answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "no disk"}')

POINTS: Final = 3_000

LOGGED: Final = """
import os, signal, sys
from harness.patience import patient
from tracklayer.backend import open_backend
from tracklayer.journal.operations import *
from tracklayer.journal.recorders import recorder_of

uri, journal, carry, end, waiting, a, b, began = sys.argv[1:]
settings = patient(uri, journal=journal)
recorder, began = recorder_of(open_backend(settings), settings), int(began)

def point(key, step):
    return Point(key, float(step), began + step, step)

for number in range(3):  # what waits: the store of this run's files is away, or there is no such run yet
    recorder.append(Artifact(b, "notes.txt", recorder.keep(b"%d" % number)))
    recorder.append(Artifact(b, f"{number}.txt", recorder.keep(b"%d" % number)))
    recorder.append(Rename(waiting, f"W{number}"))
    recorder.append(Log(waiting, (point("waits", number),), {f"p{number}": "1"}))
recorder.append(Log(a, tags={"stage": "candidate"}))
for begin in range(0, int(sys.stdin.readline()), 100):
    recorder.append(Log(a, tuple(point("loss", begin + number) for number in range(100))))
recorder.append(Artifact(a, "report.txt", recorder.keep(b"first")))
recorder.append(Rename(a, "A1"))
recorder.append(End(a, "FINISHED", began + 2_000))
recorder.append(End(b, "FINISHED", began + 2_000))
recorder.append(End(waiting, "FINISHED", began + 2_000))
assert recorder.flush(60)
assert set(recorder.held) == {waiting, "files:" + b}, recorder.held
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
assert not recorder.close(carry=carry or None)
"""

RECOVERED: Final = """
import os, signal, sys
from harness.patience import patient
from tracklayer.backend import open_backend
from tracklayer.journal.left import LeftJournal
from tracklayer.journal.recovery import Recovery, left_behind

uri, journal, end = sys.argv[1:]
settings = patient(uri, journal=journal)
backend = open_backend(settings)
(path,) = left_behind(settings, backend.store.uri)
recovery = Recovery(LeftJournal.take(path), backend, settings)
while recovery.step():
    pass
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
recovery.finish()
"""


class Scene:
    """Two runs, and one that another machine has still to make; a process logs to all of them and ends.

    Attributes:
        a: id of the run of which everything is delivered.
        b: id of the run whose files cannot be stored.
        waiting: the id under which the third was given out.
    """

    def __init__(self, proxy: RecordingProxy, settings: Settings, backend: Backend) -> None:
        self._proxy = proxy
        self._settings = settings
        self._store = backend.store
        self.experiment = backend.store.create_experiment(f"held-{uuid.uuid4().hex[:12]}", {})
        self.a, self.b = (self.make(name).run_id for name in ("A", "B"))
        self.waiting = provisional_id()

    def make(self, name: str, **tags: str) -> Run:
        return self._store.create_run(self.experiment, name=name, start_time=BEGAN, tags=tags)

    def left(self, end: str, *, points: int = 300, carry: str = "") -> None:
        """Let the process log, deliver what can be, and end: ``exit`` or ``kill``."""
        self.no_files()
        self._run(LOGGED, points, carry, end, self.waiting, self.a, self.b, str(BEGAN))

    def recovered(self, end: str) -> None:
        """Let another process deliver what can be, and end."""
        self._run(RECOVERED, 0, end)

    def _run(self, program: str, points: int, *told: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", program, str(self._settings.tracking_uri), str(self._settings.journal), *told],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            input=f"{points}\n",
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == (-signal.SIGKILL if "kill" in told else 0), done.stderr

    def no_files(self) -> None:
        """What stores the files of one run is away, while everything else is there; what was asked before is forgotten."""

        def fail(handler: Any) -> Answer:
            if self.b in handler.path:
                return NO_DISK
            answer: Answer = handler.forwarded()
            return answer

        self._proxy.forget()
        self._proxy.fault(fail, FILES, 100_000)

    def gone_on_with(self) -> None:
        """Others take over the run of which everything is delivered."""
        run = self._store.get_run(self.a)
        assert (run.name, run.status, run.end_time) == ("A1", "FINISHED", BEGAN + 2_000)
        self._store.log_batch(self.a, tags={"stage": "production"})
        self._store.update_run(self.a, name="best")
        self._store.update_run(self.a, status="RUNNING")
        self._store.update_run(self.a, status="FAILED", end_time=BEGAN + 9_000)
        self._store.log_artifact(run, "report.txt", b"theirs")

    def stands(self) -> None:
        """It is as they left it."""
        run = self._store.get_run(self.a)
        assert (run.tags["stage"], run.name) == ("production", "best")
        assert (run.status, run.end_time) == ("FAILED", BEGAN + 9_000)
        assert self._store.read_artifact(run, "report.txt") == b"theirs"

    def healed(self) -> str:
        """What had to come has come; what was asked before is forgotten. Returns the id of the run that was missing."""
        run = self.make("late", **{id_tag(self.waiting): "1"})
        self._proxy.forget()
        return run.run_id

    def asked_about(self, run_id: str) -> list[str]:
        """The requests that change a run."""
        kinds = ("runs/log-batch", "runs/update", "runs/set-tag", "runs/delete-tag")
        changes = [request for request in self._proxy.requests if request.path in kinds or request.method == "PUT"]
        return [str(one) for one in changes if run_id.encode() in one.body or run_id in one.path]

    def arrived(self, run_id: str) -> None:
        """What waited has come, in order and once."""
        run, client = self._store.get_run(run_id), mlflow.MlflowClient(tracking_uri=self._proxy.target)
        assert (run.name, run.status, run.end_time) == ("W2", "FINISHED", BEGAN + 2_000)
        assert run.params == {"p0": "1", "p1": "1", "p2": "1"}
        assert [point.step for point in client.get_metric_history(run_id, "waits")] == [0, 1, 2]
        updates = [one.json for one in self._proxy.of("runs/update") if one.json["run_id"] == run_id]
        names = [one["run_name"] for one in updates if "run_name" in one]
        assert names == ["W0", "W1", "W2"]
        files = [one for one in self._proxy.requests if one.method == "PUT" and self.b in one.path]
        stored = [(one.path.rpartition("/")[2], one.body) for one in files]
        assert stored == [(name, b"%d" % n) for n in range(3) for name in ("notes.txt", f"{n}.txt")]
        assert self._store.read_artifact(self._store.get_run(self.b), "notes.txt") == b"2"


@pytest.fixture
def scene(proxy: RecordingProxy, settings: Settings, backend: Backend) -> Scene:
    return Scene(proxy, settings, backend)


def rest(settings: Settings, backend: Backend) -> Path:
    (path,) = left_behind(settings, backend.store.uri)
    return path


@pytest.mark.parametrize("again", ["exit", "kill"], ids=["taken over", "taken over and killed"])
@pytest.mark.parametrize("end", ["exit", "kill"], ids=["left", "killed"])
def test_what_others_have_made_of_a_run_stands_while_another_waits(
    settings: Settings, backend: Backend, scene: Scene, end: str, again: str
) -> None:
    scene.left(end)
    scene.gone_on_with()
    for _ in range(2):
        scene.no_files()
        scene.recovered(again)
        scene.stands()
        assert scene.asked_about(scene.a) == []
    late = scene.healed()
    scene.recovered("exit")
    scene.stands()
    assert scene.asked_about(scene.a) == []
    scene.arrived(late)
    folder = JournalFolder.of(settings)
    assert folder
    assert list(folder.path.iterdir()) == []


def test_nothing_behind_what_waits_is_sent_again_by_each_who_finds_it(
    proxy: RecordingProxy, settings: Settings, backend: Backend, scene: Scene
) -> None:
    scene.left("exit", points=POINTS)

    def points() -> int:
        return sum(len(request.json.get("metrics", ())) for request in proxy.of("runs/log-batch"))

    assert points() == POINTS
    scene.no_files()
    scene.recovered("exit")
    assert points() == 0
    assert {one.path for one in proxy.requests if one.method == "POST"} == {"runs/search", "experiments/search"}
    assert len({one.path for one in proxy.requests if one.method == "PUT"}) == 1, "only the first of the files"
    info = inspect(rest(settings, backend))
    assert info
    assert (info.left, info.missing) == (13, ())  # three times two files, a name and values; an end
    late = scene.healed()
    scene.recovered("exit")
    assert points() == 3
    scene.arrived(late)


def test_who_is_killed_in_the_middle_of_what_waited_sends_none_of_the_others_again(
    proxy: RecordingProxy, settings: Settings, backend: Backend, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was noted how far that had come; whoever comes next does at most the last of it once more."""
    scene.left("kill")
    scene.gone_on_with()
    late = scene.healed()
    proxy.fault(lambda handler: handler.forwarded(), FILES, 3)
    proxy.fault(lambda _: NO_DISK, FILES, 100)
    monkeypatch.setattr("tracklayer.journal.progress._PACE", 0.0)
    journal = LeftJournal.take(rest(settings, backend))
    assert journal
    recovery = Recovery(journal, backend, settings)
    while recovery.step():
        pass
    assert set(recovery.delivery.held) == {f"files:{scene.b}"}
    journal.progress.forget()  # as by a kill: nothing is written any more
    journal._held.release()
    stored = [one for one in proxy.requests if one.method == "PUT" and one.status == 200]
    assert len(stored) == 3
    assert backend.store.get_run(late).name == "W2"
    proxy.forget()
    scene.recovered("exit")
    scene.stands()
    assert scene.asked_about(scene.a) == scene.asked_about(late) == []
    files = [one.path.rpartition("/")[2] for one in proxy.requests if one.method == "PUT"]
    assert files == ["1.txt", "notes.txt", "2.txt"]


def test_it_travels_with_a_journal_that_is_carried_away(
    settings: Settings, scene: Scene, tmp_path: Path, proxy: RecordingProxy
) -> None:
    place = tmp_path / "bucket"
    scene.left("exit", carry=str(place))
    scene.gone_on_with()

    def flush() -> int:
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("TRACKLAYER_", "MLFLOW_"))}
        command = [sys.executable, "-c", "from tracklayer.cli import main; main()", "flush", "--from", str(place)]
        told = {"TRACKLAYER_JOURNAL": str(settings.journal), "MLFLOW_TRACKING_URI": proxy.uri}
        return subprocess.run(command, env={**plain, **told}, capture_output=True, timeout=120).returncode

    for _ in range(2):
        scene.no_files()
        assert flush() == 1
        scene.stands()
        assert scene.asked_about(scene.a) == []
    late = scene.healed()
    assert flush() == 0
    scene.stands()
    assert scene.asked_about(scene.a) == []
    scene.arrived(late)
    assert list(place.iterdir()) == []


def damage(note: bytes) -> bytes:
    at = note.rfind(b"settled")
    return note[:at] + b"SETTLED" + note[at + 7 :]


def without(note: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("spoil", [damage, without])
def test_where_nothing_is_known_of_what_waits_all_behind_it_is_delivered_once_more(
    settings: Settings, backend: Backend, scene: Scene, spoil: Callable[[bytes], bytes]
) -> None:
    """An earlier version noted nothing; or the note cannot be read. Nothing is lost by that, and nothing is there twice."""
    scene.left("exit")
    progress = rest(settings, backend) / "progress"
    content = progress.read_bytes()
    assert b"settled" in content
    progress.write_bytes(spoil(content))
    late = scene.healed()
    scene.recovered("exit")
    scene.arrived(late)
    run, client = backend.store.get_run(scene.a), mlflow.MlflowClient(tracking_uri=str(settings.tracking_uri))
    assert (run.name, run.status, run.end_time) == ("A1", "FINISHED", BEGAN + 2_000)
    assert len(client.get_metric_history(scene.a, "loss")) == 300
