"""The comparison: a ledger of what user code was told, against what MLflow has in the end.

What was acknowledged must be in MLflow exactly once; what was only attempted at most once; and nothing else. Runs and
their data are asked for as any client asks; metric points are counted in the database's own table, because there are
many of them and the server's answers could hide a double one.
"""

from __future__ import annotations

import json
import math
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.ledger import LABEL, Entry, Read, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness.mlflow import MlflowServer

PARENT = "mlflow.parentRunId"
UPSTREAM = "mlflow.tracklayer.upstream."
GIVEN_OUT = "mlflow.tracklayer.id."
TOLERANCE = 2_000
"""So far may the times of a run be from those of the calls, in milliseconds."""

OURS = ("own.", "ml.")
"""What the names of params, tags and metrics of the user's code begin with."""

Points = Counter[tuple[str, int, str]]


@dataclass(frozen=True)
class Found:
    """A live run as MLflow has it; `moments` are the times of its metric points, by key and step."""

    run_id: str
    experiment_id: str
    status: str
    start_time: int
    end_time: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    datasets: Counter[tuple[str, str]]
    artifacts: Mapping[str, str]
    points: Points = field(default_factory=Counter)
    moments: Mapping[tuple[str, int], int] = field(default_factory=dict)

    @property
    def label(self) -> str | None:
        """What the ledger calls it; None for a workflow run's parent."""
        return self.tags.get(LABEL)


def runs_of(server: MlflowServer, workflow: str, *, login: str | None = None) -> list[Found]:
    """All live runs of a workflow, and those of any other experiment that a ledger of it knows.

    Args:
        server: a real server.
        workflow: the workflow; its experiment has its name, and the labels of its runs begin with it.
        login: the header ``Authorization``, if the server wants one.
    """
    told = _told(server, workflow, login)
    points = _points(server, list(told))
    return [_found(server, run, points) for run in told.values()]


def count_runs(server: MlflowServer, workflow: str) -> int:
    """How many runs of a workflow there are, while it may go on: nothing is read that is being written, as artifacts are."""
    return len(_told(server, workflow, None))


def _told(server: MlflowServer, workflow: str, login: str | None) -> dict[str, Any]:
    experiments = _ask(server, "experiments/search", {"max_results": 10_000}, login)["experiments"]
    everywhere = [one["experiment_id"] for one in experiments]
    own = [one["experiment_id"] for one in experiments if one["name"] == workflow]
    return {
        run["info"]["run_id"]: run
        for where, text in ((everywhere, f"tags.`{LABEL}` LIKE '{workflow}/%'"), (own, ""))
        for run in (_search(server, where, text, login) if where else ())
    }


def _search(server: MlflowServer, experiments: list[str], filter_text: str, login: str | None) -> Iterator[Any]:
    token = ""
    while True:
        query = {"experiment_ids": experiments, "filter": filter_text, "max_results": 1000, "page_token": token}
        answer = _ask(server, "runs/search", query, login)
        yield from answer.get("runs", [])
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
                counted[key, int(step), _text(float("nan") if is_nan else value)] += 1
                moments[key, int(step)] = int(moment)
    engine.dispose()
    return points


def _text(value: float) -> str:
    """A value as one compares them: MLflow's databases keep infinities as the largest numbers."""
    if math.isnan(value):
        return "nan"
    return "inf" if value > 1e308 else "-inf" if value < -1e308 else repr(float(value))


def _found(server: MlflowServer, run: Any, points: Mapping[str, tuple[Points, dict[tuple[str, int], int]]]) -> Found:
    info, data = run["info"], run["data"]
    inputs = [item["dataset"] for item in run.get("inputs", {}).get("dataset_inputs", [])]
    home = server.artifacts / info["experiment_id"] / info["run_id"] / "artifacts"
    files = [path for path in home.rglob("*") if path.is_file()] if home.exists() else []
    return Found(
        run_id=info["run_id"],
        experiment_id=info["experiment_id"],
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
    )


def differences(
    ledgers: Iterable[Read], runs: Iterable[Found], *, died: bool = False, times: bool = True, closed: bool = True
) -> list[str]:
    """What is in one and not in the other; empty is what is promised.

    Args:
        ledgers: of all processes of the workflow.
        runs: of the workflow, from `runs_of`.
        died: whether the processes may have been killed: calls without an acknowledgement are all right.
        times: whether the runs' start and end are compared with the ledger's.
        closed: whether the workflow run was ended, so that its parent must not be RUNNING either.
    """
    ledgers, runs = list(ledgers), list(runs)
    entries = [entry for ledger in ledgers for entry in ledger.entries]
    found: dict[str, list[Found]] = {}
    for run in runs:
        if run.label is not None:
            found.setdefault(run.label, []).append(run)
    wrong = [
        f"{run.label or 'a parent'} {run.run_id} is RUNNING"
        for run in runs
        if run.status == "RUNNING" and (closed or run.label)
    ]
    if not died:
        wrong += [
            f"{entry.kind} of {entry.run} was not acknowledged: {entry.error}" for entry in entries if not entry.done
        ]
    begun = {entry.run: entry for entry in entries if entry.kind == "run"}
    for label, entry in begun.items():
        count = len(found.get(label, []))
        if count > 1 or (entry.done and count != 1):
            wrong.append(f"{label} has {count} runs")
    wrong += [f"nobody began {label}" for label in found if label not in begun]
    wrong += _parents(entries, runs)
    by_run: dict[str, list[Entry]] = {}
    for entry in entries:
        by_run.setdefault(entry.run, []).append(entry)
    last = max((ledger.last_at for ledger in ledgers), default=0)
    for label, entry in begun.items():
        for run in found.get(label, [])[:1]:
            wrong += (f"{label}: {one}" for one in _run(entry, by_run[label], run, found, last if times else None))
    return wrong


def _parents(entries: list[Entry], runs: list[Found]) -> Iterator[str]:
    """What is wrong with the parents: one for each workflow run of which there is a stage."""
    parents = [run for run in runs if run.label is None]
    named = Counter(run.tags.get("tracklayer.workflow_run", "?") for run in parents)
    yield from (f"the workflow run {name} has {count} parents" for name, count in named.items() if count > 1)
    ids = {run.run_id for run in parents}
    own = {run.run_id: run.tags.get("tracklayer.workflow_run") for run in runs}
    stages = {entry.run for entry in entries if entry.kind == "run" and entry.told["below"] is None}
    for run in runs:
        if run.label in stages:
            above = run.tags.get(PARENT, "")
            if above not in ids:
                yield f"{run.label} is not below a parent, but below {above or 'nothing'}"
            elif own[above] != run.tags.get("tracklayer.workflow_run"):
                yield f"{run.label} is below the parent of another workflow run"


def _run(
    begun: Entry, entries: list[Entry], run: Found, found: Mapping[str, list[Found]], last: int | None
) -> Iterator[str]:
    """What is wrong with one run."""
    given = (begun.answer or {}).get("id") if begun.done else None
    if begun.done and given != run.run_id and f"{GIVEN_OUT}{given}" not in run.tags:
        yield f"its id was said to be {given}; it is {run.run_id}"
    below = begun.told["below"]
    if below is not None and [one.run_id for one in found.get(below, [])] != [run.tags.get(PARENT)]:
        yield f"is not below {below}, but below {run.tags.get(PARENT)}"
    yield from _values("param", entries, run.params)
    yield from _values("tag", entries, run.tags)
    yield from _counted("point", _expected_points(entries), run.points)
    datasets = [(entry, (entry.told["name"], entry.told["digest"])) for entry in entries if entry.kind == "dataset"]
    yield from _counted("dataset", datasets, run.datasets)
    artifacts = [(entry, (entry.told["path"], entry.told["text"])) for entry in entries if entry.kind == "artifact"]
    yield from _counted("artifact", artifacts, Counter(_whole(artifacts, run.artifacts)))
    yield from _links(entries, run, found)
    yield from _end(begun, entries, run, last)


def _whole(expected: Iterable[tuple[Entry, tuple[str, str]]], there: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The artifacts that are there, but for beginnings of those whose upload was never acknowledged.

    MLflow's server stores what it has got of an upload when the process that sends it dies; so it does untracked.
    """
    torn = {path: text for entry, (path, text) in expected if not entry.done}
    for path, content in there.items():
        if path.rpartition("/")[2].startswith(".artifact.uploading."):  # left by a server that was killed
            continue
        if path not in torn or content == torn[path] or not torn[path].startswith(content):
            yield path, content


def _values(kind: str, entries: list[Entry], values: Mapping[str, str]) -> Iterator[str]:
    told = [entry for entry in entries if entry.kind == kind]
    for entry in told:
        key, value = entry.told["key"], entry.told["value"]
        if values.get(key, value) != value:
            yield f"{kind} {key} is {values[key]!r} instead of {value!r}"
        elif entry.done and key not in values:
            yield f"{kind} {key} is lost"
    known = {entry.told["key"] for entry in told}
    yield from (f"{kind} {key}: nobody asked for it" for key in values if key.startswith(OURS) and key not in known)


def _expected_points(entries: list[Entry]) -> Iterator[tuple[Entry, tuple[str, int, str]]]:
    for entry in entries:
        if entry.kind == "points":
            key = entry.told["key"]
            for step in range(entry.told["first"], entry.told["last"] + 1):
                yield entry, (key, step, _text(value_of(key, step)))


def _counted(kind: str, expected: Iterable[tuple[Entry, Any]], there: Counter[Any]) -> Iterator[str]:
    """What is missing, double, or was never attempted; long lists are cut."""
    expected = list(expected)
    known = {item for _, item in expected}
    lost = [item for entry, item in expected if entry.done and item not in there]
    double = [item for item, count in there.items() if count > 1]
    strange = [item for item in there if item not in known]
    for what, items in (("lost", lost), ("there more than once", double), ("never asked for", strange)):
        if items:
            yield f"{len(items)} {kind}s of {len(known)} {what}: {items[:3]}"


def _links(entries: list[Entry], run: Found, found: Mapping[str, list[Found]]) -> Iterator[str]:
    upstream = {entry.told["upstream"]: entry for entry in entries if entry.kind == "link"}
    there = {name.removeprefix(UPSTREAM) for name in run.tags if name.startswith(UPSTREAM)}
    known = set[str]()
    for label, entry in upstream.items():
        ids = {one.run_id for one in found.get(label, [])}
        known |= ids
        if entry.done and not ids & there:
            yield f"its link to {label} is lost: it is linked to {sorted(there) or 'nothing'}"
    if there - known:
        yield f"it is linked to {sorted(there - known)}, which nobody asked for"


def _moments(entries: list[Entry], run: Found, last: int) -> Iterator[str]:
    """Metric points whose time is not that of the call that logged them."""
    late = [
        (entry.told["key"], step, run.moments[entry.told["key"], step] - entry.at)
        for entry in entries
        if entry.kind == "points"
        for step in range(entry.told["first"], entry.told["last"] + 1)
        if (entry.told["key"], step) in run.moments
        and not entry.at - TOLERANCE
        <= run.moments[entry.told["key"], step]
        <= (last if entry.done_at is None else entry.done_at) + TOLERANCE
    ]
    if late:
        yield f"{len(late)} points are not of the time of their call: {late[:3]}"


def _end(begun: Entry, entries: list[Entry], run: Found, last: int | None) -> Iterator[str]:
    ends = [entry for entry in entries if entry.kind == "end"]
    allowed = {entry.told["status"] for entry in ends}
    if not any(entry.done for entry in ends):
        allowed.add("KILLED")
    if run.status not in allowed and run.status != "RUNNING":
        yield f"it is {run.status}, not {' or '.join(sorted(allowed))}"
    if last is None:
        return
    yield from _moments(entries, run, last)
    if not begun.at - TOLERANCE <= run.start_time <= (begun.done_at or last) + TOLERANCE:
        yield f"it began {run.start_time - begun.at} ms after the call"
    if run.end_time is not None:
        done = [entry for entry in ends if entry.done]
        first, latest = (done[0].at, done[0].done_at or last) if done else (begun.at, last)
        if not first - TOLERANCE <= run.end_time <= latest + TOLERANCE:
            yield f"it ended {run.end_time - first} ms after the call, and {run.end_time - latest} ms after its answer"
