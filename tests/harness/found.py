"""What MLflow has of a workflow, for `harness.audit` to compare with what user code was told.

Runs, their data and the models that they made are asked for as any client asks; metric points are counted in the
database's own table, because there are many of them and the server's answers could hide a double one.
"""

from __future__ import annotations

import json
import math
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.ledger import LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness.mlflow import MlflowServer

Points = Counter[tuple[str, int, str]]


@dataclass(frozen=True)
class Model:
    """A logged model that a run made."""

    model_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """A live run as MLflow has it.

    Attributes:
        run_id: its id.
        experiment: name of its experiment.
        name: its name.
        status: its status.
        start_time: milliseconds since the epoch.
        end_time: the same; None while it is open.
        params: its params.
        tags: its tags.
        datasets: how often it has each dataset, by name and digest.
        artifacts: by path, what is in them.
        points: how often it has each metric point.
        moments: the times of its metric points, by key and step.
        models: the models whose source it is.
        outputs: how often each model is among its outputs, by id.
    """

    run_id: str
    experiment: str
    name: str
    status: str
    start_time: int
    end_time: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    datasets: Counter[tuple[str, str]]
    artifacts: Mapping[str, str]
    points: Points = field(default_factory=Counter)
    moments: Mapping[tuple[str, int], int] = field(default_factory=dict)
    models: tuple[Model, ...] = ()
    outputs: Counter[str] = field(default_factory=Counter)

    @property
    def label(self) -> str | None:
        """What the ledger calls it; None for a workflow run's parent."""
        return self.tags.get(LABEL)


def runs_of(server: MlflowServer, workflow: str, *, login: str | None = None) -> list[Found]:
    """All live runs of a workflow, and those of any other experiment that a ledger of it knows.

    Args:
        server: a real server.
        workflow: the workflow; its experiments are called by its name, or begin with it and a dash, and so do the
            labels of its runs.
        login: the header ``Authorization``, if the server wants one.
    """
    experiments = _experiments(server, login)
    told = _told(server, workflow, experiments, login)
    points = _points(server, list(told))
    models: dict[str, list[Model]] = {}
    for run_id, model in _models(server, {run["info"]["experiment_id"] for run in told.values()}, login):
        models.setdefault(run_id, []).append(model)
    return [_found(server, run, experiments, points, models) for run in told.values()]


def count_runs(server: MlflowServer, workflow: str) -> int:
    """How many runs of a workflow there are, while it may go on: nothing is read that is being written, as artifacts are."""
    return len(_told(server, workflow, _experiments(server, None), None))


def text_of(value: float) -> str:
    """A value as one compares them: MLflow's databases keep infinities as the largest numbers."""
    if math.isnan(value):
        return "nan"
    return "inf" if value > 1e308 else "-inf" if value < -1e308 else repr(float(value))


def _experiments(server: MlflowServer, login: str | None) -> dict[str, str]:
    """The names of all experiments, by their ids."""
    found = _pages(server, "experiments/search", {"max_results": 10_000}, "experiments", login)
    return {one["experiment_id"]: one["name"] for one in found}


def _told(server: MlflowServer, workflow: str, experiments: Mapping[str, str], login: str | None) -> dict[str, Any]:
    own = [key for key, name in experiments.items() if name == workflow or name.startswith(f"{workflow}-")]
    return {
        run["info"]["run_id"]: run
        for where, text in ((list(experiments), f"tags.`{LABEL}` LIKE '{workflow}/%'"), (own, ""))
        if where
        for run in _pages(
            server, "runs/search", {"experiment_ids": where, "filter": text, "max_results": 1000}, "runs", login
        )
    }


def _models(server: MlflowServer, experiments: Iterable[str], login: str | None) -> Iterator[tuple[str, Model]]:
    """All models of some experiments, with the run that is the source of each."""
    if not (where := sorted(experiments)):
        return
    for one in _pages(server, "logged-models/search", {"experiment_ids": where}, "models", login):
        info, data = one["info"], one.get("data", {})
        yield (
            info.get("source_run_id", ""),
            Model(
                model_id=info["model_id"],
                name=info["name"],
                status=info["status"],
                tags={item["key"]: item["value"] for item in info.get("tags", [])},
                params={item["key"]: item["value"] for item in data.get("params", [])},
            ),
        )


def _pages(server: MlflowServer, path: str, query: Mapping[str, Any], what: str, login: str | None) -> Iterator[Any]:
    token = ""
    while True:
        answer = _ask(server, path, {**query, "page_token": token}, login)
        yield from answer.get(what, [])
        token = answer.get("next_page_token", "")
        if not token:
            return


def _ask(server: MlflowServer, path: str, body: Mapping[str, Any], login: str | None) -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": login} if login else {})
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{server.uri}/api/2.0/mlflow/{path}", data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def _points(server: MlflowServer, run_ids: list[str]) -> dict[str, tuple[Points, dict[tuple[str, int], int]]]:
    """All metric points of the runs and when they were logged, as the database has them."""
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    engine = sqlalchemy.create_engine(server.backend, poolclass=NullPool)
    asked = sqlalchemy.text("SELECT run_uuid, key, step, value, is_nan, timestamp FROM metrics WHERE run_uuid IN :ids")
    asked = asked.bindparams(sqlalchemy.bindparam("ids", expanding=True))
    points: dict[str, tuple[Points, dict[tuple[str, int], int]]] = {}
    with engine.connect() as connection:
        for start in range(0, len(run_ids), 500):
            for row in connection.execute(asked, {"ids": run_ids[start : start + 500]}):
                run_id, key, step, value, is_nan, moment = row
                counted, moments = points.setdefault(run_id, (Counter(), {}))
                counted[key, int(step), text_of(float("nan") if is_nan else value)] += 1
                moments[key, int(step)] = int(moment)
    engine.dispose()
    return points


def _found(
    server: MlflowServer,
    run: Any,
    experiments: Mapping[str, str],
    points: Mapping[str, tuple[Points, dict[tuple[str, int], int]]],
    models: Mapping[str, list[Model]],
) -> Found:
    info, data = run["info"], run["data"]
    inputs = [item["dataset"] for item in run.get("inputs", {}).get("dataset_inputs", [])]
    outputs = [item["model_id"] for item in run.get("outputs", {}).get("model_outputs", [])]
    home = server.artifacts / info["experiment_id"] / info["run_id"] / "artifacts"
    files = [path for path in home.rglob("*") if path.is_file()] if home.exists() else []
    return Found(
        run_id=info["run_id"],
        experiment=experiments[info["experiment_id"]],
        name=info.get("run_name", ""),
        status=info["status"],
        start_time=int(info["start_time"]),
        end_time=int(info["end_time"]) if info.get("end_time") else None,
        params={item["key"]: item["value"] for item in data.get("params", [])},
        tags={item["key"]: item["value"] for item in data.get("tags", [])},
        datasets=Counter(
            (item["name"], item["digest"]) for item in inputs if item["name"] != "tracklayer workflow run"
        ),
        artifacts={path.relative_to(home).as_posix(): path.read_text(errors="replace") for path in files},
        points=points[info["run_id"]][0] if info["run_id"] in points else Counter(),
        moments=points[info["run_id"]][1] if info["run_id"] in points else {},
        models=tuple(models.get(info["run_id"], ())),
        outputs=Counter(outputs),
    )
