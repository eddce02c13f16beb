"""A script as MLflow's tutorials show it, 33 requests in all, and what it costs inside a tracked stage.

Run as a program like `logging_ways`; ``tutorial`` runs the script once and answers with milliseconds, from before its
first line to after its last, in a stage with everything that opening and ending the stage takes; ``nothing`` is the
stage alone. ``observed`` is the script as it is, followed by an orchestrator's plugin: its run is the stage's.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import mlflow
from logging_ways import memory, serve

if TYPE_CHECKING:
    from tracklayer.stage import StageRun

PLAIN, OBSERVED, OWN, OTHER = WAYS = "plain", "observed", "own experiment", "other experiment"


def script(experiment: str) -> None:
    """20 params, 10 metrics, one experiment, one run."""
    mlflow.set_experiment(experiment)
    with mlflow.start_run():
        for number in range(20):
            mlflow.log_param(f"param_{number}", number * 0.1)
        for number in range(10):
            mlflow.log_metric(f"metric_{number}", number * 0.1)


def _main(way: str) -> None:
    from tracklayer import RunContext, TaskRun, WorkflowRun, track
    from tracklayer.observation import Followed, Observation, observe
    from tracklayer.settings import load

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    workflow_run = WorkflowRun(orchestrator="bench", workflow="bench-tutorial", run_id=f"r{time.time_ns()}")
    tasks = 0
    opened: list[StageRun] = []

    def do(what: str, number: int) -> Any:
        nonlocal tasks
        if what == "memory":
            return memory()
        began = time.perf_counter()
        tasks += 1
        context = RunContext(
            workflow_run=workflow_run, task_run=TaskRun(task=f"t{number}-{tasks}"), owns_workflow_run=True
        )
        if way == PLAIN:
            if what == "tutorial":
                script("bench-tutorial-plain")
        elif way == OBSERVED:
            observation = Observation(lambda: Followed(context=context, settings=load()), opened.append)
            observe(observation)
            if what == "tutorial":
                script("bench-tutorial-observed")
            observation.end("FINISHED")
            observe(None)
        else:
            with track("training", context=context):
                if what == "tutorial":
                    script("bench-tutorial" if way == OWN else "bench-tutorial-other")
        return (time.perf_counter() - began) * 1000

    serve(do)


if __name__ == "__main__":
    _main(sys.argv[1])
