"""What a local run of a tracked pipeline and its tasks tell each other: files in a folder that lives as long as the run.

KFP's local runner starts tasks as subprocesses without the environment of the compiled pipeline (before kfp 2.17) and
says nothing about retries, so the process that runs the pipeline leaves here what a cluster would tell, and each
task how it ended.
"""

from __future__ import annotations

import os
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from tracklayer_kubeflow.facts import PipelineFacts, TaskFacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracklayer_kubeflow.place import Place


class LocalRun(msgspec.Struct, frozen=True, kw_only=True):
    """A local pipeline run, as its tasks need to know it.

    Attributes:
        run_id: id of the pipeline run.
        pipeline: facts about the pipeline.
        tasks: facts about the tasks, by component.
        started_at: when the run started, aware.
        parent: token of the workflow-run parent; None if it could not be made.
        tags: tags for every run.
        params: arguments of the pipeline.
    """

    run_id: str
    pipeline: PipelineFacts
    started_at: datetime
    tasks: dict[str, TaskFacts] = {}
    parent: str | None = None
    tags: dict[str, str] = {}
    params: dict[str, Any] = {}


class TaskEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the last try of a task ended.

    Attributes:
        status: the stage run's status.
        token: the stage run's token; None if there is none.
    """

    status: str
    token: str | None = None


class LocalFolder:
    """The folder of one local pipeline run.

    Args:
        path: the folder; it exists.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def write_run(self, run: LocalRun) -> None:
        """Leave the run for its tasks."""
        text = msgspec.json.encode(run, enc_hook=repr)
        (self.path / "run.json").write_bytes(text)

    def read_run(self) -> LocalRun | None:
        """The run; None if there is none that can be read."""
        try:
            return msgspec.json.decode((self.path / "run.json").read_bytes(), type=LocalRun)
        except (OSError, msgspec.MsgspecError):
            return None

    def claim(self, name: str) -> bool:
        """Whether the folder is that of the local run which KFP's runner calls `name`: the first to ask has it."""
        path = self.path / "claimed"
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            told = path.read_text(encoding="utf-8")
            return told in {name, ""}  # empty: another task of, most likely, the same run is just about to write it
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(name)
        return True

    def count_try(self, task: str, index: str | None) -> int:
        """The number of the try that starts now, from 1; every call is one."""
        folder = self._folder("tries")
        for number in count(1):
            try:
                os.close(os.open(folder / f"{_name(task, index)}#{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                continue
            break
        return number

    def write_end(self, task: str, index: str | None, end: TaskEnd) -> None:
        """Say how a try of a task ended; the last try counts."""
        (self._folder("ends") / _name(task, index)).write_bytes(msgspec.json.encode(end))

    def ends(self, task: str | None = None) -> Iterator[TaskEnd]:
        """How tasks ended, of every iteration: the task `task`, or all."""
        folder = self._folder("ends")
        wanted = None if task is None else quote(task, safe="")
        for file in sorted(folder.iterdir()):
            if wanted in {None, file.name, file.name.partition("[")[0]}:
                end = _read_end(file)
                if end is not None:
                    yield end

    def end_of(self, task: str, index: str | None) -> TaskEnd | None:
        """How one iteration of a task ended; None if it did not."""
        return _read_end(self._folder("ends") / _name(task, index))

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def local_run(folder: str | None, place: Place) -> tuple[LocalFolder, LocalRun] | tuple[None, None]:
    """The local run that a task at `place` belongs to, if `folder` is that run's.

    Args:
        folder: what the environment says. It is inherited, so it may be that of another run: one in whose task this
            one was started.
        place: where the task runs.
    """
    if not folder or not place.local or place.started_at is None:
        return None, None
    found = LocalFolder(folder)
    run = found.read_run()
    if run is None or run.pipeline.name != place.pipeline or place.started_at < run.started_at:
        return None, None
    return (found, run) if found.claim(place.run_id or "") else (None, None)


def parameters(arguments: Mapping[str, object]) -> dict[str, Any]:
    """A pipeline's arguments as far as they are plain data; of others their text."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        try:
            msgspec.json.encode(value)
        except (TypeError, ValueError, OverflowError):
            found[name] = str(value)
        else:
            found[name] = value
    return found


def _read_end(file: Path) -> TaskEnd | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=TaskEnd)
    except (OSError, msgspec.MsgspecError):
        return None


def _name(task: str, index: str | None) -> str:
    return quote(task, safe="") + ("" if index is None else f"[{quote(index, safe='')}]")
