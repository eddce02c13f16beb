"""What is written to a journal: one frozen value for each thing that was logged, in the order in which it was.

A run is named by its *local id*: MLflow's run id where that was known when the operation was written, else the
provisional id that was given out (see `tracklayer.provisional`). The same goes for models.

New fields are added at the end and have defaults, so that an older journal can be read by a newer version.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from tracklayer.context import RunContext, RunRef, Status
from tracklayer.ending import RealEnd
from tracklayer.opening import Opening
from tracklayer.store import Dataset


class Header(msgspec.Struct, frozen=True, array_like=True, tag="header"):
    """The first record of a journal.

    Attributes:
        format: version of the format; a reader refuses one that is newer than its own.
        tracking_uri: the tracking URI, without credentials: whoever delivers brings those.
        host: name of the machine.
        pid: process id of the writer.
        started_at: milliseconds since the epoch.
        settings: the settings that delivery needs, without secrets (JSON object of plain values).
    """

    format: int
    tracking_uri: str
    host: str
    pid: int
    started_at: int
    settings: dict[str, object] = {}


class Point(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One point of a metric; NaN and infinities are allowed. What it measured may be a model, on a dataset."""

    key: str
    value: float
    timestamp: int
    step: int = 0
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class Begin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    """A stage run, or the parent of a workflow run, is about to be created (or found)."""

    id: str
    opening: Opening


class Create(msgspec.Struct, frozen=True, array_like=True, tag="create"):
    """A run that user code starts below a stage is about to be created.

    Attributes:
        id: its provisional id.
        experiment_id: id of the experiment; `tracklayer.provisional.PENDING` for that of the run `stage`.
        name: its name; None lets the server choose one.
        start_time: milliseconds since the epoch.
        tags: its tags; values that are provisional ids are resolved.
        stage: local id of the stage run to which it belongs.
    """

    id: str
    experiment_id: str
    name: str | None
    start_time: int
    tags: dict[str, str]
    stage: str


class Named(msgspec.Struct, frozen=True, array_like=True, tag="named"):
    """The server's answer to a `Begin` or `Create`: what the run is called from now on."""

    id: str
    run_id: str
    experiment_id: str
    artifact_uri: str = ""


class GivenOut(msgspec.Struct, frozen=True, array_like=True, tag="given"):
    """User code goes on with the provisional id, of a run or a model: from now on it must come to be, and be found."""

    id: str


class Log(msgspec.Struct, frozen=True, array_like=True, tag="log", gc=False):
    """Params, metrics and tags of a run.

    Attributes:
        run: its local id.
        points: metric points.
        params: params, as they are stored.
        tags: tags; names and values that hold provisional ids are resolved.
        yielding: True if the params give way, without a word, to what the run already has by their names.
    """

    run: str
    points: tuple[Point, ...] = ()
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    yielding: bool = False


class DeleteTag(msgspec.Struct, frozen=True, array_like=True, tag="untag"):
    """A tag of a run is taken away."""

    run: str
    key: str


class Inputs(msgspec.Struct, frozen=True, array_like=True, tag="inputs"):
    """Datasets and models that a run read (or, by their context, made)."""

    run: str
    datasets: tuple[Dataset, ...] = ()
    models: tuple[str, ...] = ()


class Outputs(msgspec.Struct, frozen=True, array_like=True, tag="outputs"):
    """Models that a run made: pairs of local id and step."""

    run: str
    models: tuple[tuple[str, int], ...]


class Consumed(msgspec.Struct, frozen=True, array_like=True, tag="consumed"):
    """A run read a dataset while nobody could be asked who made it: the link is found on delivery.

    Attributes:
        run: local id of the consumer.
        uri: the dataset, as its producer called it.
        digest: exactly this version; None for the last one that there was at the time.
        at: when, in milliseconds since the epoch.
        name: the dataset's name on MLflow's page, None for the last part of the URI.
    """

    run: str
    uri: str
    digest: str | None
    at: int
    name: str | None = None


class Artifact(msgspec.Struct, frozen=True, array_like=True, tag="artifact"):
    """A file that was copied aside, to be stored among the artifacts of a run or of a model.

    Attributes:
        owner: local id of the run or model.
        path: relative, with ``/`` between its parts.
        file: name of the copy in the journal's own folder of files.
        known: None for a file that is stored as it is. For a table, how many of its first rows were there before: the
            others are appended to what the table holds when this is delivered.
        tried: True if the whole of the table was sent before, and nobody knows whether it has arrived.
    """

    owner: str
    path: str
    file: str
    known: int | None = None
    tried: bool = False


class Linked(msgspec.Struct, frozen=True, array_like=True, tag="linked"):
    """Links of a stage run were found after it was created: its description is brought up to date.

    Attributes:
        run: its local id.
        note: tracklayer's part of the description, composed anew; what the user wrote above it is kept.
        text: what the user wrote, anew: tracklayer's part below it is kept then, if there is one. None if it stays.
    """

    run: str
    note: str
    text: str | None = None


class Rename(msgspec.Struct, frozen=True, array_like=True, tag="rename"):
    """A run gets another name."""

    run: str
    name: str


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """A run has ended; ``RUNNING`` opens one again that had been ended (`end_time` is None then).

    Attributes:
        run: its local id.
        status: how it ended.
        end_time: when, in milliseconds since the epoch.
        left: True if its process has only left it, and it ends elsewhere: whoever is told how knows better.
    """

    run: str
    status: Status
    end_time: int | None
    left: bool = False


class LeftOpen(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """A run is left open on purpose (a deferred task, a suspended flow): the end of this process is not its end."""

    run: str


class Close(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    """A workflow run has ended; see `tracklayer.closing.close`.

    Attributes:
        context: the workflow run; the task that has ended, where `if_last` is true.
        status: how it ended.
        ended_at: when, in milliseconds since the epoch.
        parent: the parent as far as it is known. One whose id was given out before it existed is waited for: it is
            certain to come.
        error: what it failed with.
        if_last: True if it is one task that has ended, so that the workflow run may have; see
            `tracklayer.completion.close_if_last`.
        ends: with `if_last`: True if no task that certainly runs comes after it.
        observed: True if runs of observed tasks may be among those of the workflow run: they are ended a moment after
            their tasks.
        perhaps: True if nobody knows whether there is a parent: it is waited for only where this end is late itself.
        told: how tries ended of which no process was there then, by key.
    """

    context: RunContext
    status: Status
    ended_at: int
    parent: RunRef | None = None
    error: str | None = None
    if_last: bool = False
    ends: bool = True
    observed: bool = False
    perhaps: bool = False
    told: dict[str, RealEnd] = {}


class Lost(msgspec.Struct, frozen=True, array_like=True, tag="lost"):
    """The orchestrator has given a try up whose process it has lost; see `tracklayer.closing.give_up`.

    Attributes:
        context: the try.
        ended_at: when the orchestrator gave it up, in milliseconds since the epoch.
    """

    context: RunContext
    ended_at: int


class NewExperiment(msgspec.Struct, frozen=True, array_like=True, tag="experiment"):
    """User code made, or chose, the experiment `name` while the server was away: it is created if there is none."""

    name: str


class CreateModel(msgspec.Struct, frozen=True, array_like=True, tag="model"):
    """A logged model is about to be created; `run` is the local id of the run that makes it."""

    id: str
    experiment_id: str
    name: str | None
    run: str | None
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    model_type: str | None = None


class NamedModel(msgspec.Struct, frozen=True, array_like=True, tag="named-model"):
    """The server's answer to a `CreateModel`."""

    id: str
    model_id: str
    artifact_location: str


class ChangeModel(msgspec.Struct, frozen=True, array_like=True, tag="change-model"):
    """Tags and params are added to a logged model, or it gets its status (``READY``, ``UPLOAD_FAILED``)."""

    model: str
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    status: str | None = None


class Register(msgspec.Struct, frozen=True, array_like=True, tag="register"):
    """A logged model becomes a version of the registered model `name`, which is created if there is none."""

    model: str
    name: str
    tags: dict[str, str] = {}


class Gone(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """What stood here was delivered and is taken out, because something before it still waits.

    Attributes:
        next: the position at which reading goes on; nothing stands between the end of this record and there.
    """

    next: int


Operation: TypeAlias = (
    Header
    | Begin
    | Create
    | Named
    | GivenOut
    | Log
    | DeleteTag
    | Inputs
    | Outputs
    | Consumed
    | Artifact
    | Linked
    | Rename
    | End
    | LeftOpen
    | Close
    | Lost
    | NewExperiment
    | CreateModel
    | NamedModel
    | ChangeModel
    | Register
    | Gone
)
"""Everything that a journal holds."""
