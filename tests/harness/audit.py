"""The comparison: a ledger of what user code was told, against what MLflow has in the end (`harness.found`).

What was acknowledged must be in MLflow exactly once; what was only attempted at most once; and nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from harness.found import text_of
from harness.ledger import Entry, Read, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from harness.found import Found

PARENT = "mlflow.parentRunId"
UPSTREAM = "mlflow.tracklayer.upstream."
GIVEN_OUT = "mlflow.tracklayer.id."
REFUSED = "tracklayer.refused"
TOLERANCE = 2_000
"""So far may the times of a run be from those of the calls, in milliseconds."""

OURS = ("own.", "ml.")
"""What the names of params, tags and metrics of the user's code begin with."""


def differences(
    ledgers: Iterable[Read], runs: Iterable[Found], *, died: bool = False, closed: bool = True
) -> list[str]:
    """What is in one and not in the other; empty is what is promised.

    Args:
        ledgers: of all processes of the workflow.
        runs: of the workflow, from `runs_of`.
        died: whether the processes may have been killed: calls without an acknowledgement are all right.
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
            wrong += (f"{label}: {one}" for one in _run(entry, by_run[label], run, found, last))
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


def _run(begun: Entry, entries: list[Entry], run: Found, found: Mapping[str, list[Found]], last: int) -> Iterator[str]:
    """What is wrong with one run."""
    given = (begun.answer or {}).get("id") if begun.done else None
    if begun.done and given != run.run_id and f"{GIVEN_OUT}{given}" not in run.tags:
        yield f"its id was said to be {given}; it is {run.run_id}"
    below = begun.told["below"]
    above = found.get(below, [])
    if below is not None and [one.run_id for one in above] != [run.tags.get(PARENT)]:
        yield f"is not below {below}, but below {run.tags.get(PARENT)}"
    where = begun.told.get("where") or next((one.experiment for one in above), run.experiment)
    if run.experiment != where:
        yield f"it is in the experiment {run.experiment}, not in {where}"
    names = _last([begun, *(entry for entry in entries if entry.kind == "rename")], "name")
    if None not in names and run.name not in names:
        yield f"it is called {run.name!r} instead of {_either(names)}"
    yield from _values("param", entries, run.params, _first)
    yield from _values("tag", entries, run.tags, _last)
    yield from _refused(entries, run)
    yield from _models(entries, run)
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


def _last(entries: Iterable[Entry], name: str = "value") -> set[str | None]:
    """What may stand where the last call counts (None: nothing): what it said, or an attempt behind it that was cut short."""
    may: set[str | None] = {None}
    for entry in entries:
        said = entry.told.get(name)
        may = {said} if entry.done else may | {said}
    return may


def _first(entries: Iterable[Entry]) -> set[str | None]:
    """What may stand where the first call counts, as for a param."""
    may: set[str | None] = {None}
    for entry in entries:
        if None in may:
            may = (may - {None} if entry.done else may) | {entry.told["value"]}
    return may


def _either(values: Iterable[str | None]) -> str:
    return " or ".join(sorted("nothing" if value is None else repr(value) for value in values))


def _values(
    kind: str,
    entries: list[Entry],
    values: Mapping[str, str],
    allowed: Callable[[Iterable[Entry]], set[str | None]],
) -> Iterator[str]:
    told: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.kind == kind:
            told.setdefault(entry.told["key"], []).append(entry)
    for key, calls in told.items():
        may = allowed(calls)
        if values.get(key) not in may:
            there = "lost" if key not in values else "there still" if may == {None} else f"{values[key]!r}"
            yield f"{kind} {key} is {there} instead of {_either(may)}"
    yield from (f"{kind} {key}: nobody asked for it" for key in values if key.startswith(OURS) and key not in told)


def _refused(entries: list[Entry], run: Found) -> Iterator[str]:
    """What the server had to refuse for good: each value is told on the run, and nothing else."""
    asked = {f"{entry.told['what']} {entry.told['key']}": entry.done for entry in entries if entry.kind == "refused"}
    told = run.tags.get(REFUSED, "0: ")
    count, _, reasons = told.partition(": ")
    named = set(re.findall(r"(?:^|; )(\S+ \S+): ", reasons))
    unknown = [one for one, done in asked.items() if done and one not in named]
    if unknown:
        yield f"{len(unknown)} refused values of {len(asked)} are not told: {unknown[:3]} in {told!r}"
    if not sum(asked.values()) <= int(count) <= len(asked):
        yield f"{count} values were refused, not {sum(asked.values())}: {told!r}"


def _models(entries: list[Entry], run: Found) -> Iterator[str]:
    """What is wrong with the models that the run made: each once, whole, ready, and once among its outputs."""
    made = {entry.told["name"]: entry for entry in entries if entry.kind == "model"}
    there = Counter(model.name for model in run.models)
    yield from _counted("model", [(entry, name) for name, entry in made.items()], there)
    ids = {model.model_id: model.name for model in run.models}
    outputs = [(entry, entry.told["name"]) for entry in entries if entry.kind == "output"]
    listed = Counter({ids.get(model_id, model_id): count for model_id, count in run.outputs.items()})
    yield from _counted("output", outputs, listed)
    for model in run.models:
        if (asked := made.get(model.name)) is None:
            continue
        kinds = {entry.kind for entry in entries if entry.done and entry.told.get("name") == model.name}
        if "ready" in kinds and model.status != "LOGGED_MODEL_READY":
            yield f"its model {model.name} is {model.status}"
        if {**model.tags, **asked.told["tags"]} != {**model.tags} or {**model.params} != asked.told["params"]:
            yield f"its model {model.name} has the tags {dict(model.tags)} and the params {dict(model.params)}"


def _expected_points(entries: list[Entry]) -> Iterator[tuple[Entry, tuple[str, int, str]]]:
    for entry in entries:
        if entry.kind == "points":
            key = entry.told["key"]
            for step in range(entry.told["first"], entry.told["last"] + 1):
                yield entry, (key, step, text_of(value_of(key, step)))


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


def _end(begun: Entry, entries: list[Entry], run: Found, last: int) -> Iterator[str]:
    """The last end counts; whoever opens a run again takes back the end that it had."""
    killed = ("KILLED", begun.at, last)
    may = {killed}
    for entry in entries:
        if entry.kind == "end":
            said = (entry.told["status"], entry.at, entry.done_at or last)
            may = {said} if entry.done else may | {said}
        elif entry.kind == "resume":
            may = {killed} if entry.done else may | {killed}
    if run.status not in {status for status, _, _ in may} and run.status != "RUNNING":
        yield f"it is {run.status}, not {_either({status for status, _, _ in may})}"
    yield from _moments(entries, run, last)
    if not begun.at - TOLERANCE <= run.start_time <= (begun.done_at or last) + TOLERANCE:
        yield f"it began {run.start_time - begun.at} ms after the call"
    ends = [(first, latest) for status, first, latest in may if status == run.status]
    if (
        ends
        and run.end_time is not None
        and not any(first - TOLERANCE <= run.end_time <= latest + TOLERANCE for first, latest in ends)
    ):
        told = [
            f"{run.end_time - first} ms after the call, and {run.end_time - latest} ms after its answer"
            for first, latest in ends
        ]
        yield f"it ended {' or '.join(told)}"
