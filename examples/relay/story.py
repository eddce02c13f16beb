"""What MLflow knows of the story so far, read by plain REST: nothing here is told by the pipelines themselves."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UPSTREAM: Final = "mlflow.tracklayer.upstream."
STAGES: Final = ("data-prep", "training", "evaluation")
ORCHESTRATORS: Final = ("airflow", "kubeflow", "prefect")
_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One run of the story, as MLflow tells it.

    Attributes:
        run_id: MLflow's run id.
        experiment_id: the experiment's id.
        experiment: the experiment's name.
        name: the run's name.
        status: MLflow's status.
        seconds: how long it took, None while it is running.
        tags: all its tags.
    """

    run_id: str
    experiment_id: str
    experiment: str
    name: str
    status: str
    seconds: float | None
    tags: Mapping[str, str]

    @property
    def orchestrator(self) -> str | None:
        """Which orchestrator it ran in; None for a run that tracklayer did not open."""
        return self.tags.get("tracklayer.orchestrator")

    @property
    def stage(self) -> str | None:
        """The stage; None for the run of a workflow run."""
        return self.tags.get("tracklayer.stage")

    @property
    def parent(self) -> str | None:
        """Run id of its workflow run's run; None if it is that itself."""
        return self.tags.get("mlflow.parentRunId")

    @property
    def upstream(self) -> frozenset[str]:
        """Run ids that it is linked to."""
        return frozenset(name.removeprefix(UPSTREAM) for name in self.tags if name.startswith(UPSTREAM))


def read_story(server: str, since: int) -> Sequence[Chapter]:
    """The runs that began at `since` (milliseconds since the epoch) or later, in order of their start.

    Args:
        server: URL of MLflow's server.
        since: when the story began.

    Raises:
        OSError: the server does not answer.
    """
    found = _ask(server, "experiments/search", {"max_results": 1000})
    names = {item["experiment_id"]: item["name"] for item in found.get("experiments", [])}
    question = {
        "experiment_ids": list(names),
        "filter": f"attributes.start_time >= {since}",
        "order_by": ["attributes.start_time ASC"],
        "max_results": _PAGE,
    }
    runs = _ask(server, "runs/search", question).get("runs", [])
    return [_chapter(run, names) for run in runs]


def missing(story: Sequence[Chapter]) -> list[str]:
    """What the story lacks to be whole, in words; empty if it is whole."""
    lacks = [f"no run of {name}" for name in ORCHESTRATORS if not any(_is_parent(run, name) for run in story)]
    lacks += [f"{run.name} ({run.run_id}) ended {run.status}" for run in story if run.status != "FINISHED"]
    stages = {stage: [run for run in story if run.stage == stage] for stage in STAGES}
    lacks += [f"no {stage} stage" for stage, runs in stages.items() if not runs]
    for earlier, later in pairwise(STAGES):
        sources = {run.run_id for run in stages[earlier]}
        lacks += [f"{run.name} is not linked to the {earlier}" for run in stages[later] if not run.upstream & sources]
    return lacks


def _is_parent(run: Chapter, orchestrator: str) -> bool:
    return run.orchestrator == orchestrator and run.parent is None


def _chapter(run: Mapping[str, Any], experiments: Mapping[str, str]) -> Chapter:
    info = run["info"]
    end = int(info.get("end_time") or 0)
    return Chapter(
        run_id=info["run_id"],
        experiment_id=info["experiment_id"],
        experiment=experiments[info["experiment_id"]],
        name=info["run_name"],
        status=info["status"],
        seconds=(end - int(info["start_time"])) / 1000 if end else None,
        tags={tag["key"]: tag["value"] for tag in run["data"].get("tags", [])},
    )


def _ask(server: str, call: str, question: Mapping[str, object]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/{call}", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: dict[str, Any] = json.loads(answer.read())
        return content
