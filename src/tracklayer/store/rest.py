"""The tracking back end of an MLflow server, spoken to over its REST API 2.0; imports no mlflow."""

from __future__ import annotations

import logging
import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, unquote, urlsplit

from tracklayer.exceptions import AlreadyExists, NotFound, Refused, SettingsError, StoreError, StoreUnavailable
from tracklayer.store import Dataset, Experiment, LoggedModel, Metric, Run, artifacts, wire
from tracklayer.store.endpoint import Endpoint, is_loopback
from tracklayer.store.everywhere import ids_up_to, portions
from tracklayer.store.models import ModelUri
from tracklayer.store.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tracklayer.context import Status

log = logging.getLogger(__name__)

API: Final = "/api/2.0/mlflow/"
ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts/"
PAGE: Final = 1000
"""Most runs or experiments that one page of a search asks for."""

T = TypeVar("T")


class RestStore:
    """An MLflow tracking server. Safe to use from several threads and after a fork."""

    def __init__(
        self, endpoint: Endpoint, *, connect_timeout: float = 1.0, timeout: float = 5.0, address: str | None = None
    ) -> None:
        """Open no connection yet.

        Args:
            endpoint: the server and the credentials for it.
            connect_timeout: seconds for a connection.
            timeout: seconds for an answer, repeats included.
            address: the tracking URI behind `endpoint`, so that changed credentials are found; None if they stay.
        """
        self.uri = endpoint.url
        self._endpoint = endpoint
        self._address = address
        self._transport = Transport(endpoint, connect_timeout=connect_timeout, timeout=timeout)

    def __repr__(self) -> str:
        return f"RestStore({self.uri!r})"

    # Experiments

    def get_experiment(self, experiment_id: str) -> Experiment:
        """The experiment with this id, deleted or not. Raises NotFound."""
        if not experiment_id.isdecimal():  # the server would call that a bad value, and it is only no experiment
            raise NotFound(f"there is no experiment with the id {experiment_id!r}")
        answer = self._get(
            "experiments/get", wire.ExperimentAnswer, what="find the experiment", experiment_id=experiment_id
        )
        return answer.experiment.value()

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """The experiment of this name, deleted or not; None if there never was one."""
        try:
            answer = self._get(
                "experiments/get-by-name",
                wire.ExperimentAnswer,
                what="find the experiment",
                experiment_name=wire.text(name),
            )
        except NotFound:
            return None
        return answer.experiment.value()

    def search_experiments(self) -> Sequence[Experiment]:
        """All active experiments, every page of them."""
        found: list[Experiment] = []
        token: str | None = None
        while True:
            payload: dict[str, object] = {"max_results": PAGE, "view_type": "ACTIVE_ONLY"}
            if token:
                payload["page_token"] = token
            page = self._post(
                "experiments/search", payload, wire.ExperimentsAnswer, what="list the experiments", repeat=True
            )
            found += [experiment.value() for experiment in page.experiments]
            token = page.next_page_token
            if not token:
                return found

    def create_experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """Create it and return its id. Raises AlreadyExists, also for a name that a deleted one holds."""
        answer = self._post(
            "experiments/create",
            {"name": wire.text(name), "tags": wire.pairs(tags)},
            wire.CreatedExperimentAnswer,
            what="create the experiment",
            repeat=False,
        )
        return answer.experiment_id

    def restore_experiment(self, experiment_id: str) -> None:
        """Take it out of the trash; no error if it is already active."""
        try:
            self._change("experiments/restore", {"experiment_id": experiment_id}, what="restore the experiment")
        except NotFound:
            if self.get_experiment(experiment_id).deleted:
                raise

    def set_experiment_tags(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment, one request each."""
        for tag in wire.pairs(tags):
            self._change(
                "experiments/set-experiment-tag",
                {"experiment_id": experiment_id, **tag},
                what="set a tag of the experiment",
            )

    # Runs

    def create_run(self, experiment_id: str, *, name: str | None, start_time: int, tags: Mapping[str, str]) -> Run:
        """Create a RUNNING run. Never repeated after a lost answer: two runs would be the price."""
        payload: dict[str, Any] = {
            "experiment_id": experiment_id,
            "start_time": start_time,
            "tags": wire.pairs(tags),
        }
        if name is not None:
            payload["run_name"] = wire.text(name)
        return self._post("runs/create", payload, wire.RunAnswer, what="create the run", repeat=False).run.value()

    def update_run(
        self, run_id: str, *, status: Status | None = None, end_time: int | None = None, name: str | None = None
    ) -> None:
        """Change status, end time (milliseconds) or name; None leaves a field as it is."""
        changes = {"status": status, "end_time": end_time, "run_name": None if name is None else wire.text(name)}
        payload = {key: value for key, value in changes.items() if value is not None}
        self._change("runs/update", {"run_id": run_id, **payload}, what="update the run")

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log one batch within MLflow's limits. Raises Refused; nothing of the batch was stored then."""
        self.prepared_batch(run_id, metrics=metrics, params=params, tags=tags)()

    def prepared_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Callable[[], None]:
        """What `log_batch` does, but for sending it: that is done by calling what is returned."""
        items = {
            "metrics": wire.last_first(wire.metrics(metrics)),
            "params": wire.pairs(params),
            "tags": wire.pairs(tags),
        }
        payload = {kind: values for kind, values in items.items() if values}
        body = wire.encoded_batch({"run_id": run_id, **payload}) if payload else None

        def send() -> None:
            if body is not None:
                path = API + "runs/log-batch"
                self._transport.send("POST", path, what="log a batch", repeat=True, read=_reader(dict), body=body)

        return send

    def delete_tag(self, run_id: str, key: str) -> None:
        """Take a tag away; no error if the run has none of this name."""
        try:
            self._change("runs/delete-tag", {"run_id": run_id, "key": wire.text(key)}, what="delete a tag")
        except NotFound:
            if wire.text(key) in self.get_run(run_id).tags:
                raise

    def log_inputs(self, run_id: str, datasets: Sequence[Dataset], models: Sequence[str] = ()) -> None:
        """Log datasets and models as inputs. The first source of one dataset (experiment, name, digest) sticks."""
        payload: dict[str, Any] = {"run_id": run_id}
        if datasets:
            payload["datasets"] = wire.datasets(datasets)
        if models:
            payload["models"] = [{"model_id": model} for model in models]
        if datasets or models:
            self._change("runs/log-inputs", payload, what="log inputs")

    def log_outputs(self, run_id: str, models: Sequence[tuple[str, int]]) -> None:
        """Log models that the run made, as pairs of model id and step; safe to repeat."""
        missing = list(dict(models).items())
        while missing:
            payload = {"run_id": run_id, "models": [{"model_id": model, "step": step} for model, step in missing]}
            try:
                self._post("runs/outputs", payload, dict, what="log outputs", repeat=False)
            except StoreUnavailable:
                # MLflow answers a repeated output like a lost race: whether it is there already says the run.
                there = {model for model, _ in self.get_run(run_id).outputs}
                left = [(model, step) for model, step in missing if model not in there]
                if len(left) == len(missing):
                    raise
                missing = left
            else:
                return

    def get_run(self, run_id: str) -> Run:
        """The run, deleted or not. Raises NotFound."""
        return self._get("runs/get", wire.RunAnswer, what="find the run", run_id=run_id).run.value()

    def delete_run(self, run_id: str) -> None:
        """Move the run to the trash; no error if it is there already."""
        self._change("runs/delete", {"run_id": run_id}, what="delete the run")

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
            payload: dict[str, object] = {
                "experiment_ids": ids,
                "filter": filter_string,
                "run_view_type": "DELETED_ONLY" if deleted else "ACTIVE_ONLY",
                "order_by": list(order_by),
            }
            while len(found) < limit:
                payload["max_results"] = min(limit - len(found), PAGE)
                page = self._post("runs/search", payload, wire.RunsAnswer, what="search runs", repeat=True)
                found += [run.value() for run in page.runs]
                if not page.next_page_token:
                    break
                payload["page_token"] = page.next_page_token
        return found

    def _all_ids(self, *, deleted: bool) -> Sequence[str]:
        """Ids of all active experiments, perhaps with others that hold no active run."""
        if not deleted:
            payload = {"max_results": 1, "view_type": "ACTIVE_ONLY", "order_by": ["creation_time DESC"]}
            newest = self._post(
                "experiments/search", payload, wire.ExperimentsAnswer, what="find the newest experiment", repeat=True
            ).experiments
            if not newest:
                return []
            if ids := ids_up_to(newest[0].experiment_id):
                return ids
        return [experiment.experiment_id for experiment in self.search_experiments()]

    # Artifacts

    def log_artifact(self, owner: Run | LoggedModel, path: str, content: bytes | Path) -> None:
        """Store `content`, or that of a local file, at `path` among the artifacts of a run or model."""
        artifacts.checked(path)
        if (served := self._served(owner.artifact_uri)) is not None:
            self._transport.send(
                "PUT",
                f"{served}/{quote(path)}",
                what=f"store the artifact {path}",
                repeat=True,
                read=_reader(dict),
                body=content,
                content_type="application/octet-stream",
            )
        elif (folder := artifacts.folder(owner.artifact_uri)) is not None:
            artifacts.write(folder, path, content, here=is_loopback(self._endpoint.host))
        else:
            artifacts.upload(owner.artifact_uri, path, content)

    def has_artifact(self, run: Run, path: str) -> bool:
        """Whether there is a file at `path` among the artifacts, as their storage lists them."""
        artifacts.checked(path)
        if (served := self._served(run.artifact_uri)) is not None:
            # Not by reading it: of what is not there, some storages make the server answer 500.
            above, _, name = path.rpartition("/")
            place = "/".join(part for part in (unquote(served).removeprefix(ARTIFACTS), above) if part)
            answer = self._transport.send(
                "GET",
                ARTIFACTS.rstrip("/"),
                what=f"look for the artifact {path}",
                repeat=True,
                read=_reader(wire.FilesAnswer),
                query={"path": place},
            )
            return any(posixpath.basename(file.path) == name and not file.is_dir for file in answer.files)
        if (folder := artifacts.folder(run.artifact_uri)) is not None:
            return (folder / path).is_file()
        return artifacts.exists(run.artifact_uri, path)

    def read_artifact(self, run: Run, path: str) -> bytes:
        """The content of one artifact. Raises NotFound."""
        artifacts.checked(path)
        if (served := self._served(run.artifact_uri)) is not None:
            return self._transport.send(
                "GET", f"{served}/{quote(path)}", what=f"read the artifact {path}", repeat=True, read=bytes
            )
        if (folder := artifacts.folder(run.artifact_uri)) is not None:
            return artifacts.read(folder, path)
        return artifacts.download(run.artifact_uri, path)

    # Models and the server itself

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
        """Create a PENDING logged model. Never repeated after a lost answer."""
        told = {"name": name, "source_run_id": run_id, "model_type": model_type}
        payload: dict[str, Any] = {key: wire.text(value) for key, value in told.items() if value is not None}
        payload |= {"experiment_id": experiment_id, "tags": wire.pairs(tags), "params": wire.pairs(params)}
        answer = self._post("logged-models", payload, wire.LoggedModelAnswer, what="create the model", repeat=False)
        return answer.model.value()

    def change_logged_model(
        self,
        model_id: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        status: str | None = None,
    ) -> None:
        """Add tags and params to a logged model, then set its status; safe to repeat."""
        path = f"logged-models/{quote(model_id, safe='')}"
        if tags:
            self._change(f"{path}/tags", {"tags": wire.pairs(tags)}, what="set tags of the model", method="PATCH")
        if params:
            payload = {"model_id": model_id, "params": wire.pairs(params)}
            try:
                self._post(f"{path}/params", payload, dict, what="log params of the model", repeat=False)
            except StoreUnavailable:
                # MLflow answers a repeated param like a lost race: which of them are there already says the model.
                there = self.get_logged_model(model_id).params
                missing = {key: value for key, value in params.items() if wire.text(key) not in there}
                if len(missing) == len(params):
                    raise
                self.change_logged_model(model_id, params=missing)
        if status is not None:
            payload = {"model_id": model_id, "status": wire.MODEL_STATUS + status}
            self._change(path, payload, what="set the status of the model", method="PATCH")

    def get_logged_model(self, model_id: str) -> LoggedModel:
        """The logged model. Raises NotFound."""
        path = f"logged-models/{quote(model_id, safe='')}"
        return self._get(path, wire.LoggedModelAnswer, what="find the model").model.value()

    def find_logged_model(self, experiment_ids: Sequence[str], tag: str) -> LoggedModel | None:
        """The first logged model that carries the tag `tag`; no experiment ids means all active experiments."""
        for ids in portions(list(experiment_ids) or self._all_ids(deleted=False)):
            payload = {"experiment_ids": ids, "filter": f"tags.`{tag}` != ''", "max_results": 1}
            page = self._post("logged-models/search", payload, wire.LoggedModelsAnswer, what="find models", repeat=True)
            if page.models:
                return page.models[0].value()
        return None

    def register_model(self, model_id: str, name: str, tags: Mapping[str, str]) -> str:
        """Make a logged model a version of a registered model, which is created if need be; returns the version."""
        name = wire.text(name)
        with suppress(AlreadyExists):
            self._post("registered-models/create", {"name": name}, dict, what="create the model's name", repeat=False)
        query = {"filter": f"name = {wire.quoted(name)}", "max_results": str(PAGE)}
        page = self._get("model-versions/search", wire.ModelVersionsAnswer, what="find the model's versions", **query)
        source = f"models:/{model_id}"
        for version in page.model_versions:
            if version.source == source:
                return version.version
        run_id = self.get_logged_model(model_id).run_id
        fresh = {"name": name, "source": source, "run_id": run_id, "model_id": model_id, "tags": wire.pairs(tags)}
        made = self._post(
            "model-versions/create", fresh, wire.ModelVersionAnswer, what="register the model", repeat=False
        )
        return made.model_version.version

    def model_run_id(self, model: str) -> str:
        """Run id of the training run behind a model. Raises NotFound."""
        uri = ModelUri.parse(model)
        model_id, run_id = uri.model_id, None
        if model_id is None:
            if uri.alias is None:
                path, query = "model-versions/get", {"name": uri.name, "version": uri.version}
            else:
                path, query = "registered-models/alias", {"name": uri.name, "alias": uri.alias}
            try:
                version = self._get(path, wire.ModelVersionAnswer, what="find the model", **query).model_version
            except Refused as error:  # which is how MLflow calls an alias that there is not
                raise NotFound(str(error)) from error
            model_id, run_id = version.model_id, version.run_id
        if model_id and not run_id:
            path = f"logged-models/{quote(model_id, safe='')}"
            run_id = self._get(path, wire.LoggedModelAnswer, what="find the model").model.info.source_run_id
        if not run_id:
            raise NotFound(f"the model {model} was not made by a run")
        return run_id

    def ping(self) -> str:
        """The server's version, asked for in a way that shows that it is there and takes the credentials."""
        self._post(
            "experiments/search", {"max_results": 1}, wire.ExperimentsAnswer, what="list an experiment", repeat=True
        )
        try:
            told = self._transport.send("GET", "/version", what="tell its version", repeat=True, read=bytes)
        except StoreUnavailable:
            raise
        except StoreError:
            return "unknown"  # a managed MLflow may have the API and not this page
        return told[:40].decode("utf-8", "replace").strip()

    def try_again(self) -> None:
        """Let the next call through although an earlier one failed, with credentials that are read anew."""
        self._transport.try_again()
        if self._address is None:
            return
        try:
            found = Endpoint.find(self._address)
        except SettingsError as error:
            log.debug("the credentials were not read anew: %s", error)
            return
        if found != self._endpoint:
            self._endpoint = found
            self._transport.renew(found)

    def close(self) -> None:
        """Close connections and forget failures. The store may be used again."""
        self._transport.close()

    # Requests

    def _get(self, path: str, answer: type[T], *, what: str, **query: str) -> T:
        return self._transport.send("GET", API + path, what=what, repeat=True, read=_reader(answer), query=query)

    def _post(self, path: str, payload: Mapping[str, Any], answer: type[T], *, what: str, repeat: bool) -> T:
        body = wire.encoded(payload)
        return self._transport.send("POST", API + path, what=what, repeat=repeat, read=_reader(answer), body=body)

    def _change(self, path: str, payload: Mapping[str, Any], *, what: str, method: str = "POST") -> None:
        # Repeating these is harmless: they set what they set, and metrics are told apart by key, time, step, value.
        body = wire.encoded(payload)
        self._transport.send(method, API + path, what=what, repeat=True, read=_reader(dict), body=body)

    def _served(self, artifact_uri: str) -> str | None:
        """Path below the server's prefix at which it serves these artifacts; None if it does not."""
        parts = urlsplit(artifact_uri)
        if parts.scheme == "mlflow-artifacts":
            here = not parts.netloc or parts.netloc == urlsplit(self._endpoint.origin).netloc
            return ARTIFACTS + quote(parts.path.strip("/")) if here else None
        begin = self._endpoint.url + ARTIFACTS
        return artifact_uri[len(self._endpoint.url) :].rstrip("/") if artifact_uri.startswith(begin) else None


def _reader(answer: type[T]) -> Callable[[bytes], T]:
    return lambda body: wire.decoded(body or b"{}", answer)
