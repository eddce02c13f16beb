"""The tracking back end at any URI that the mlflow library knows: databases, Databricks, folders, plugins' schemes.

The only module that imports mlflow for tracking, and only when the first request is made: it costs seconds.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from tracklayer.exceptions import AlreadyExists, NotFound, Refused, StoreError, StoreUnavailable
from tracklayer.store import artifacts, database, entities, wire
from tracklayer.store.answer import error_by_code
from tracklayer.store.breaker import Breaker
from tracklayer.store.calling import own_call
from tracklayer.store.connection import dial
from tracklayer.store.endpoint import is_loopback, without_credentials
from tracklayer.store.everywhere import ids_up_to, portions
from tracklayer.store.models import ModelUri
from tracklayer.store.transport import DELAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tracklayer.context import Status
    from tracklayer.store import Dataset, Experiment, LoggedModel, Metric, Run

PAGE: Final = 1000
"""Most runs or experiments that one page of a search asks for."""

_FRESH: Final = 2.0
"""Seconds for which a host that answered is not asked again whether it is there."""

T = TypeVar("T")


class LibraryStore:
    """A tracking back end behind the mlflow library. Safe to use from several threads and after a fork.

    The library's own waits cannot be shortened from outside. So that a dead database host cannot hold a task up for
    them (MLflow tries for hours), the host is knocked at first, and left alone for a while if it does not open.
    """

    def __init__(self, uri: str, *, connect_timeout: float = 1.0, timeout: float = 5.0) -> None:
        """Open nothing and import nothing yet.

        Args:
            uri: a tracking URI.
            connect_timeout: seconds for the knock at the host of the URI, if it names one.
            timeout: seconds within which a harmless request that failed may be repeated.
        """
        self.uri = without_credentials(uri)
        self._uri = uri
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._address = database.address(uri)
        self._breaker = Breaker(probe=connect_timeout + timeout)
        self._seen = 0.0
        self._client: Any = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"LibraryStore({self.uri!r})"

    # Experiments

    def get_experiment(self, experiment_id: str) -> Experiment:
        """The experiment with this id, deleted or not. Raises NotFound."""
        if not experiment_id.isdecimal():
            raise NotFound(f"there is no experiment with the id {experiment_id!r}")
        return entities.experiment(
            self._ask("find the experiment", lambda client: client.get_experiment(experiment_id))
        )

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """The experiment of this name, deleted or not; None if there never was one."""
        try:
            found = self._ask("find the experiment", lambda client: client.get_experiment_by_name(wire.text(name)))
        except NotFound:
            return None
        return None if found is None else entities.experiment(found)

    def search_experiments(self) -> Sequence[Experiment]:
        """All active experiments, every page of them."""
        pages = self._pages("list the experiments", lambda client, **page: client.search_experiments(**page))
        return [entities.experiment(experiment) for experiment in pages]

    def create_experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """Create it and return its id. Raises AlreadyExists, also for a name that a deleted one holds."""
        return str(
            self._ask(
                "create the experiment",
                lambda client: client.create_experiment(wire.text(name), tags=entities.text_of(tags)),
                repeat=False,
            )
        )

    def restore_experiment(self, experiment_id: str) -> None:
        """Take it out of the trash; no error if it is already active."""
        try:
            self._ask("restore the experiment", lambda client: client.restore_experiment(experiment_id))
        except NotFound:
            if self.get_experiment(experiment_id).deleted:
                raise

    def set_experiment_tags(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment, one request each."""
        for key, value in entities.text_of(tags).items():
            self._ask("set a tag of the experiment", partial(_set_tag, experiment_id, key, value))

    # Runs

    def create_run(self, experiment_id: str, *, name: str | None, start_time: int, tags: Mapping[str, str]) -> Run:
        """Create a RUNNING run. Never repeated after a failure."""
        return entities.run(
            self._ask(
                "create the run",
                lambda client: client.create_run(
                    experiment_id,
                    start_time=start_time,
                    tags=entities.text_of(tags),
                    run_name=None if name is None else wire.text(name),
                ),
                repeat=False,
            )
        )

    def update_run(
        self, run_id: str, *, status: Status | None = None, end_time: int | None = None, name: str | None = None
    ) -> None:
        """Change status, end time (milliseconds) or name; None leaves a field as it is."""

        def update(client: Any) -> None:
            if end_time is not None:
                from mlflow.entities import RunStatus

                # `set_terminated` would shut down the asynchronous logging of user code, which has the same store.
                told = RunStatus.from_string(status or client.get_run(run_id).info.status)
                client._tracking_client.store.update_run_info(run_id, told, end_time, None)  # noqa: SLF001
            if name is not None or (status is not None and end_time is None):
                client.update_run(run_id, status=status, name=None if name is None else wire.text(name))

        self._ask("update the run", update)

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log one batch within MLflow's limits. Raises Refused; nothing of the batch was stored then."""
        arguments = entities.batch(metrics, params, tags)
        if arguments:
            self._ask("log a batch", lambda client: client.log_batch(run_id, **arguments, synchronous=True))

    def delete_tag(self, run_id: str, key: str) -> None:
        """Take a tag away; no error if the run has none of this name."""
        name = wire.text(key)
        try:
            self._ask("delete a tag", lambda client: client.delete_tag(run_id, name))
        except NotFound:
            if name in self.get_run(run_id).tags:
                raise

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str] = ()) -> None:
        """Log datasets and models as inputs. The first source of one dataset (experiment, name, digest) sticks."""
        if datasets or models:
            told = partial(entities.log_inputs, run_id, datasets, models)
            self._ask("log inputs", told)

    def log_outputs(self, run_id: str, models: Sequence[tuple[str, int]]) -> None:
        """Log models that the run made, as pairs of model id and step; safe to repeat."""
        there = {model for model, _ in self.get_run(run_id).outputs}
        missing = {model: step for model, step in models if model not in there}
        if missing:
            self._ask("log outputs", partial(entities.log_outputs, run_id, missing), repeat=False)

    def get_run(self, run_id: str) -> Run:
        """The run, deleted or not. Raises NotFound."""
        return entities.run(self._ask("find the run", lambda client: client.get_run(run_id)))

    def delete_run(self, run_id: str) -> None:
        """Move the run to the trash; no error if it is there already."""
        self._ask("delete the run", lambda client: client.delete_run(run_id))

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        deleted: bool = False,
    ) -> Sequence[Run]:
        """Runs that match MLflow's filter, at most `limit`; no experiment ids means all active experiments."""
        found: list[Run] = []
        for ids in portions(list(experiment_ids) or self._all_ids(deleted=deleted)):
            search = partial(_search, ids, filter_string, 2 if deleted else 1, list(order_by))
            found += [entities.run(run) for run in self._pages("search runs", search, limit - len(found))]
        return found

    def _all_ids(self, *, deleted: bool) -> Sequence[str]:
        """Ids of all active experiments, perhaps with others that hold no active run."""
        if not deleted:
            newest = self._ask(
                "find the newest experiment",
                lambda client: client.search_experiments(max_results=1, order_by=["creation_time DESC"]),
            )
            if not newest:
                return []
            if ids := ids_up_to(str(newest[0].experiment_id)):
                return ids
        return [experiment.experiment_id for experiment in self.search_experiments()]

    # Artifacts

    def log_artifact(self, owner: Run | LoggedModel, path: str, content: bytes | Path) -> None:
        """Store `content`, or that of a local file, at `path` among the artifacts of a run or model."""
        artifacts.checked(path)
        if (folder := artifacts.folder(owner.artifact_uri)) is not None:
            artifacts.write(folder, path, content, here=self._address is None or is_loopback(self._address[0]))
        else:
            artifacts.upload(owner.artifact_uri, path, content)

    def has_artifact(self, run: Run, path: str) -> bool:
        """Whether there is a file at `path` among the artifacts, as their storage lists them."""
        if (folder := artifacts.folder(run.artifact_uri)) is not None:
            return (folder / artifacts.checked(path)).is_file()
        return artifacts.exists(run.artifact_uri, path)

    def read_artifact(self, run: Run, path: str) -> bytes:
        """The content of one artifact. Raises NotFound."""
        if (folder := artifacts.folder(run.artifact_uri)) is not None:
            return artifacts.read(folder, path)
        return artifacts.download(run.artifact_uri, path)

    # Models and the back end itself

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
        """Create a PENDING logged model. Never repeated after a failure."""
        create = partial(
            _create_model,
            experiment_id,
            name=None if name is None else wire.text(name),
            source_run_id=run_id,
            tags=entities.text_of(tags),
            params=entities.text_of(params),
            model_type=model_type,
        )
        return entities.logged_model(self._ask("create the model", create, repeat=False))

    def change_logged_model(
        self,
        model_id: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        status: str | None = None,
    ) -> None:
        """Add tags and params to a logged model, then set its status; safe to repeat."""
        if tags:
            told = entities.text_of(tags)
            self._ask("set tags of the model", lambda client: client.set_logged_model_tags(model_id, told))
        if params:
            there = self.get_logged_model(model_id).params
            missing = {key: value for key, value in entities.text_of(params).items() if key not in there}
            if missing:
                log_params = partial(_log_model_params, model_id, missing)
                self._ask("log params of the model", log_params, repeat=False)
        if status is not None:
            self._ask("set the status of the model", lambda client: client.finalize_logged_model(model_id, status))

    def get_logged_model(self, model_id: str) -> LoggedModel:
        """The logged model. Raises NotFound."""
        return entities.logged_model(self._ask("find the model", lambda client: client.get_logged_model(model_id)))

    def find_logged_model(self, experiment_ids: Sequence[str], tag: str) -> LoggedModel | None:
        """The first logged model that carries the tag `tag`; no experiment ids means all active experiments."""
        condition = f"tags.`{tag}` != ''"
        for ids in portions(list(experiment_ids) or self._all_ids(deleted=False)):
            found = self._ask("find models", partial(_search_models, ids, condition))
            if found:
                return entities.logged_model(found[0])
        return None

    def register_model(self, model_id: str, name: str, tags: Mapping[str, str]) -> str:
        """Make a logged model a version of a registered model, which is created if need be; returns the version."""
        model, name = self.get_logged_model(model_id), wire.text(name)
        with suppress(AlreadyExists):
            self._ask("create the model's name", lambda client: client.create_registered_model(name), repeat=False)
        condition = f"name = {wire.quoted(name)}"
        found = self._ask("find the model's versions", lambda client: client.search_model_versions(condition))
        for version in found:
            if version.source == model.artifact_uri:
                return str(version.version)
        # By its place: mlflow would look a model of its tracking URI up in the process's own one.
        create = partial(_register, name, model, entities.text_of(tags))
        return str(self._ask("register the model", create, repeat=False).version)

    def model_run_id(self, model: str) -> str:
        """Run id of the training run behind a model. Raises NotFound."""
        uri = ModelUri.parse(model)

        def find(client: Any) -> str | None:
            model_id, run_id = uri.model_id, None
            if model_id is None:
                if uri.alias is None:
                    version = client.get_model_version(uri.name, uri.version)
                else:
                    version = client.get_model_version_by_alias(uri.name, uri.alias)
                model_id, run_id = getattr(version, "model_id", None), version.run_id
            if model_id and not run_id:
                run_id = client.get_logged_model(model_id).source_run_id
            return run_id

        run_id = self._ask("find the model", find)
        if not run_id:
            raise NotFound(f"the model {model} was not made by a run")
        return run_id

    def ping(self) -> str:
        """The version of the mlflow library, after the back end was asked for as little as possible."""
        self._ask("list an experiment", lambda client: client.search_experiments(max_results=1))
        import mlflow

        return str(mlflow.__version__)

    def warm_up(self) -> None:
        """Import the mlflow library, which takes seconds; no error if it is not there."""
        with suppress(ImportError):
            import mlflow  # noqa: F401

    def try_again(self) -> None:
        """Let the next call through although an earlier one failed a moment ago."""
        self._breaker.half_open()
        self._seen = 0.0

    def close(self) -> None:
        """Close the connections of a database and forget failures. The store may be used again."""
        client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            for engine in database.engines(client):
                engine.dispose()
        self._breaker.reached()

    # Requests

    def _pages(self, what: str, search: Callable[..., Any], limit: int | None = None) -> Iterator[Any]:
        left, token = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self._ask(what, partial(search, max_results=size, page_token=token))
            yield from page
            left = None if left is None else left - len(page)
            token = page.token
            if not token:
                return

    def _ask(self, what: str, action: Callable[[Any], T], *, repeat: bool = True) -> T:
        self._knock()
        deadline = time.monotonic() + self._timeout
        for delay in (*DELAYS, None):
            try:
                with own_call():
                    return action(self._opened())
            except StoreError:
                raise
            except Exception as error:
                failure = self._failure(error, what)
                later = repeat and isinstance(failure, StoreUnavailable)
                if not later or delay is None or time.monotonic() + delay >= deadline:
                    # Not chained: what a database driver or a cloud library says may hold a password.
                    raise failure from None
                time.sleep(delay)
        raise AssertionError("the last round raises")  # pragma: no cover

    def _knock(self) -> None:
        if self._address is None or time.monotonic() - self._seen < _FRESH:
            return
        host, port = self._address
        if left := self._breaker.left():
            raise StoreUnavailable(f"{self.uri} could not be reached a moment ago; it is left alone for {left:.0f} s")
        try:
            dial(host, port, self._connect_timeout).close()
        except OSError as error:
            self._breaker.failed()
            raise StoreUnavailable(
                f"cannot reach {host}:{port} ({error}): does the back end of {self.uri} run there?"
            ) from error
        self._breaker.reached()
        self._seen = time.monotonic()

    def _opened(self) -> Any:
        client = self._client
        if client is not None and self._pid == os.getpid():
            return client
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise StoreError(
                f"the tracking URI {self.uri} needs the mlflow library: install mlflow, or use a server's http:// URI"
            ) from None
        try:
            with database.alone(self._uri):
                database.enter(self._uri, self._timeout)
                client = MlflowClient(tracking_uri=self._uri)
                database.take_over(client)
        except StoreError as error:
            raise type(error)(f"{self.uri} cannot be used: {self._shown(error)}") from None
        self._client, self._pid = client, os.getpid()
        return client

    def _failure(self, error: Exception, what: str) -> StoreError:
        if isinstance(error, ImportError):
            return StoreError(
                f"the tracking URI {self.uri} needs a library that is not installed: {self._shown(error)}"
            )
        code = getattr(error, "error_code", None)
        if code is None:
            return StoreUnavailable(f"{self.uri} could not {what}: {type(error).__name__}: {self._shown(error)}")
        failure = error_by_code(str(code), f"{self.uri} could not {what}: {self._shown(error)}")
        if type(failure) is Refused and what.startswith("find"):  # an id that is no id is only not found
            return NotFound(str(failure))
        return failure

    def _shown(self, error: Exception) -> str:
        shown = " ".join(str(error).partition("[SQL:")[0].split()).replace(self._uri, self.uri)
        try:
            password = urlsplit(self._uri).password
        except ValueError:
            password = None
        for secret in {password or "", unquote(password or "")}:
            shown = shown.replace(secret, "***") if secret else shown
        return shown[:500]


def _set_tag(experiment_id: str, key: str, value: str, client: Any) -> None:
    client.set_experiment_tag(experiment_id, key, value)


def _create_model(experiment_id: str, client: Any, **told: Any) -> Any:
    return client.create_logged_model(experiment_id, **told)


def _register(name: str, model: LoggedModel, tags: dict[str, str], client: Any) -> Any:
    return client.create_model_version(
        name, model.artifact_uri, model.run_id, tags=tags, await_creation_for=0, model_id=model.model_id
    )


def _log_model_params(model_id: str, params: dict[str, str], client: Any) -> None:
    client.log_model_params(model_id, params)


def _search_models(ids: list[str], condition: str, client: Any) -> Any:
    return client.search_logged_models(experiment_ids=ids, filter_string=condition, max_results=1)


def _search(ids: list[str], filter_string: str, view: int, order_by: list[str], client: Any, **page: Any) -> Any:
    return client.search_runs(ids, filter_string, run_view_type=view, order_by=order_by, **page)
