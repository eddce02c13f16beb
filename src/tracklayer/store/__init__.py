"""The tracking back end as tracklayer sees it: a small protocol, and how a URI becomes one.

`rest` speaks MLflow's REST API over urllib3 and imports nothing heavy; `library` serves every other tracking URI
through the mlflow library. Plugins add more with the hook ``tracklayer_store``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tracklayer.context import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment; `deleted` is True for one that waits in MLflow's trash (its name stays taken)."""

    experiment_id: str
    name: str
    deleted: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One point of a metric. `timestamp` is in milliseconds since the epoch; NaN and infinities are allowed.

    What was measured may be a logged model, on a dataset: `model_id`, `dataset_name` and `dataset_digest` say so.
    """

    key: str
    value: float
    timestamp: int
    step: int = 0
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset that a run read or made, as MLflow's ``log-inputs`` takes it.

    Attributes:
        name: at most 500 characters.
        digest: at most 36 characters; a longer one is the caller's to shorten.
        source_type: MLflow's kind of source (``http``, ``local``, ``s3``, ``code``, …).
        source: JSON text that describes the source, usually ``{"uri": …}``.
        context: value of the tag ``mlflow.data.context`` (``training``, ``produced``, …); None for no tag.
        schema: JSON text of the schema, None if unknown.
        profile: JSON text of the profile (row counts), None if unknown.
        tags: other tags of this input.
    """

    name: str
    digest: str
    source_type: str
    source: str
    context: str | None = None
    schema: str | None = None
    profile: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as the back end tells of it. Times are milliseconds since the epoch; `end_time` is None while open."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    start_time: int | None
    end_time: int | None
    artifact_uri: str
    deleted: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    outputs: tuple[tuple[str, int], ...] = ()
    """Models that the run made: pairs of model id and step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedModel:
    """A logged model as the back end tells of it; `status` is ``PENDING``, ``READY`` or ``UPLOAD_FAILED``."""

    model_id: str
    experiment_id: str
    name: str
    artifact_uri: str
    status: str = "PENDING"
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Store(Protocol):
    """What tracklayer asks of a tracking back end. Implementations are safe to use from several threads.

    Every method raises only `tracklayer.exceptions.StoreError` or one of its subclasses:
    `StoreUnavailable` (no answer, 429, 5xx), `AccessDenied`, `NotFound`, `AlreadyExists`, `Refused`.
    None of them repeats a request that is not harmless to repeat (``create_run``, ``create_experiment``).

    Attributes:
        uri: the tracking URI without user name and password: for messages and pages, not for opening it again.
    """

    uri: str

    def get_experiment(self, experiment_id: str) -> Experiment:
        """The experiment with this id, deleted or not. Raises NotFound."""

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """The experiment of this name, deleted or not; None if there never was one."""

    def search_experiments(self) -> Sequence[Experiment]:
        """All active experiments, every page of them."""

    def create_experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """Create it and return its id. Raises AlreadyExists, also for a name that a deleted experiment holds."""

    def restore_experiment(self, experiment_id: str) -> None:
        """Take it out of the trash; no error if it is already active."""

    def set_experiment_tags(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment, one request each."""

    def create_run(self, experiment_id: str, *, name: str | None, start_time: int, tags: Mapping[str, str]) -> Run:
        """Create a RUNNING run; at most 500 tags. A name of None lets the server choose. Never repeated."""

    def update_run(
        self, run_id: str, *, status: Status | None = None, end_time: int | None = None, name: str | None = None
    ) -> None:
        """Change status, end time (milliseconds) or name; None leaves a field as it is."""

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log one batch within MLflow's limits (1,000 items; 1,000 metrics, 100 params, 100 tags).

        Raises:
            Refused: the back end refused the batch; nothing of it was stored.
        """

    def delete_tag(self, run_id: str, key: str) -> None:
        """Take a tag away; no error if the run has none of this name. Raises NotFound for a run that there is not."""

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str] = ()) -> None:
        """Log datasets and models (by their ids) as inputs of the run.

        The first source of one dataset (experiment, name, digest) sticks.
        """

    def log_outputs(self, run_id: str, models: Sequence[tuple[str, int]]) -> None:
        """Log models that the run made, as pairs of model id and step; safe to repeat."""

    def get_run(self, run_id: str) -> Run:
        """The run, deleted or not. Raises NotFound."""

    def delete_run(self, run_id: str) -> None:
        """Move the run to the trash; no error if it is there already."""

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        deleted: bool = False,
    ) -> Sequence[Run]:
        """Runs that match MLflow's filter, at most `limit` of them over as many pages as that takes.

        Args:
            experiment_ids: empty means all active experiments.
            filter_string: MLflow's filter; empty for all runs.
            order_by: MLflow's order (``attributes.start_time DESC``); empty for its own, the latest first. Over more
                than 30,000 experiments it holds within each 30,000 of them only.
            limit: most runs to return.
            deleted: True to look in the trash instead.
        """

    def log_artifact(self, owner: Run | LoggedModel, path: str, content: bytes | Path) -> None:
        """Store `content`, or that of a local file, at `path` (relative, ``/`` between parts) among the artifacts."""

    def has_artifact(self, run: Run, path: str) -> bool:
        """Whether there is a file at `path` among the artifacts, as their storage lists them."""

    def read_artifact(self, run: Run, path: str) -> bytes:
        """The content of one artifact. Raises NotFound."""

    def create_logged_model(
        self,
        experiment_id: str,
        *,
        name: str | None,
        run_id: str | None,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        model_type: str | None,
    ) -> LoggedModel:
        """Create a PENDING logged model; a name of None lets the server choose one. Never repeated."""

    def change_logged_model(
        self,
        model_id: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        status: str | None = None,
    ) -> None:
        """Add tags and params to a logged model, then set its status (``READY``, ``UPLOAD_FAILED``).

        Safe to repeat: a param that the model has keeps its value.
        """

    def get_logged_model(self, model_id: str) -> LoggedModel:
        """The logged model. Raises NotFound."""

    def find_logged_model(self, experiment_ids: Sequence[str], tag: str) -> LoggedModel | None:
        """The first logged model that carries the tag `tag`; no experiment ids means all active experiments."""

    def register_model(self, model_id: str, name: str, tags: Mapping[str, str]) -> str:
        """Make a logged model a version of the registered model `name`, which is created if there is none.

        Safe to repeat: a model that is a version of it stays the one that it is.

        Returns:
            The version's number, as MLflow's client gives it.
        """

    def model_run_id(self, model: str) -> str:
        """Run id of the training run behind a model.

        Args:
            model: ``models:/name/version``, ``models:/name@alias``, ``models:/m-…`` or ``m-…``. Raises NotFound.
        """

    def ping(self) -> str:
        """Ask the back end for as little as shows that it is there and takes the credentials; returns its version."""

    def try_again(self) -> None:
        """Let the next call through although an earlier one failed a moment ago, with credentials that are read anew.

        Else calls fail at once for a while after the back end could not be reached.
        """

    def close(self) -> None:
        """Close connections. The store may be used again."""
