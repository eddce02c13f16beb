"""What an outage left behind is delivered, and the story that results is compared with that of a run without one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracklayer.identity import ROOT_TAG, UPSTREAM_TAG
from tracklayer.provisional import ID_TAG, is_provisional
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tracklayer.store import Run

PARENT = "mlflow.parentRunId"

OF_ONE_RUN = frozenset(
    {
        # What differs from one run of a pipeline to the next, and is looked at by itself or by nobody.
        "mlflow.note.content",
        "mlflow.runName",
        "tracklayer.key",
        "tracklayer.workflow",
        "tracklayer.workflow_run",
    }
)

PLACES = ("mlflow.tracklayer.", "mlflow.source.git.", "airflow.", "prefect.", "kfp.")
"""How the tags begin that say where a run is from; index tags are looked at by themselves."""


def flush(
    uri: str,
    *,
    arguments: Sequence[str] = (),
    journal: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    left: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``tracklayer flush`` in a process of its own, as a person or a timer does.

    Args:
        uri: where to deliver.
        arguments: of the command.
        journal: the folder of journals; None for that of the tests.
        environ: more variables.
        left: something is left afterwards, which waits for what others have.

    Raises:
        AssertionError: it failed; with what it wrote.
    """
    told = {"MLFLOW_TRACKING_URI": uri, **({"TRACKLAYER_JOURNAL": str(journal)} if journal else {})}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("tracklayer")), "flush", *arguments],
        env={**os.environ, **told, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == (1 if left else 0), done.stdout + done.stderr
    return done


def journals(folder: Path | str | None = None) -> list[Path]:
    """The journals in a folder, None for that of the tests; those that are empty and about to go are among them."""
    top = Path(folder or os.environ["TRACKLAYER_JOURNAL"])
    return sorted(path.parent for path in top.rglob("lock")) if top.exists() else []


def runs_of(uri: str, experiment: str) -> list[Run]:
    """All live runs of an experiment, oldest first; none where there is no such experiment."""
    store = open_store(uri, connect_timeout=5, timeout=30)
    found = store.get_experiment_by_name(experiment)
    if found is None:
        return []
    return list(store.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"], limit=1_000))


def graph(runs: Iterable[Run], name: Callable[[Run], str] | None = None) -> dict[str, dict[str, Any]]:
    """A story without what is by chance: by the name of each run, what it says and how it hangs together with others.

    Args:
        runs: all of the story; a run that is not among them is called by where it is found instead.
        name: what a run is called, in every run of the pipeline alike; None: by task and try, from its key.

    Raises:
        AssertionError: two runs have the same name, a run is still known by an id that was given out before it
            existed, or a run that has ended says not when.
    """
    runs = list(runs)
    call = name or place
    names = {run.run_id: call(run) for run in runs}
    given = {tag.removeprefix(ID_TAG): names[run.run_id] for run in runs for tag in run.tags if tag.startswith(ID_TAG)}
    assert len(set(names.values())) == len(runs), f"one of these is there twice: {sorted(names.values())}"
    return {names[run.run_id]: _described(run, names, {**given, **names}) for run in runs}


def differences(told: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is different between two stories as `graph` gives them, a line each; none if they are alike."""
    found = [f"{name!r} is there in one only" for name in sorted(told.keys() ^ expected.keys())]
    for name in sorted(told.keys() & expected.keys()):
        for part in told[name].keys() | expected[name].keys():
            one, other = told[name][part], expected[name][part]
            if isinstance(one, dict) and isinstance(other, dict):
                found += [
                    f"{name!r}: {part} {key!r}: {one.get(key)!r}, not {other.get(key)!r}"
                    for key in sorted(one.keys() | other.keys())
                    if one.get(key) != other.get(key)
                ]
            elif one != other:
                found.append(f"{name!r}: {part}: {one!r}, not {other!r}")
    return found


def place(run: Run) -> str:
    """The end of a run's key that is alike in every run of the pipeline: ``train[1]#2``; empty for a parent."""
    return run.tags["tracklayer.key"].rpartition("/")[2] if PARENT in run.tags else ""


def _described(run: Run, names: Mapping[str, str], valid: Mapping[str, str]) -> dict[str, Any]:
    def told(run_id: str) -> str:
        assert not is_provisional(run_id), f"{names[run.run_id]!r} still names a run by a provisional id: {run_id}"
        return names.get(run_id, "a run of another story")

    links = {
        told(tag.removeprefix(UPSTREAM_TAG)): json.loads(value)["kind"]
        for tag, value in run.tags.items()
        if tag.startswith(UPSTREAM_TAG)
    }
    if run.status != "RUNNING":
        assert (run.end_time or 0) >= (run.start_time or 1), f"{names[run.run_id]!r} ended before it began"
    note = run.tags.get("mlflow.note.content", "")
    given_out = {tag.removeprefix(ID_TAG) for tag in run.tags if tag.startswith(ID_TAG)}
    assert not any(identifier in note for identifier in given_out), "the description shows an id that leads nowhere"
    plain = {
        tag: re.sub(r"\d+", "#", value) if tag == "tracklayer.error.message" else value
        for tag, value in run.tags.items()
        if tag not in OF_ONE_RUN and not tag.startswith(PLACES)
    }
    for tag in (PARENT, ROOT_TAG, "tracklayer.superseded_by"):
        if tag in run.tags:
            plain[tag] = told(run.tags[tag])
    return {
        "status": run.status,
        "params": {key: valid.get(value, value) for key, value in run.params.items()},
        "metrics": dict(run.metrics),
        "links": links,
        "tags": plain,
        "described links": sorted(
            names.get(mentioned, "another") for mentioned in set(re.findall(r"/runs/([0-9a-f]{32})", note))
        ),
    }
