"""What tests look at and run: the runs of an experiment, and executors as KFP's launcher runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zlib import crc32

from tracklayer.linking import read_links
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tracklayer.store import Run


@dataclass(frozen=True)
class Story:
    """The runs of one experiment on a real server."""

    uri: str
    experiment: str

    @property
    def runs(self) -> list[Run]:
        """All live runs, oldest first."""
        store = open_store(self.uri, connect_timeout=5, timeout=30)
        experiment = store.get_experiment_by_name(self.experiment)
        if experiment is None:
            return []
        return list(store.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"], limit=1_000))

    @property
    def parents(self) -> list[Run]:
        """Those that stand for pipeline runs."""
        return [run for run in self.runs if "mlflow.parentRunId" not in run.tags]

    @property
    def parent(self) -> Run:
        """The only one."""
        (parent,) = self.parents
        return parent

    @property
    def stages(self) -> list[Run]:
        """Those that stand for tries of tasks."""
        return [run for run in self.runs if "mlflow.parentRunId" in run.tags]

    @property
    def stage(self) -> Run:
        """The only one."""
        (stage,) = self.stages
        return stage

    def task(self, name: str) -> Run:
        """The only stage run of this task, which may have an index (``train[1]``)."""
        (found,) = [run for run in self.stages if task_of(run) == name]
        return found

    @property
    def tasks(self) -> list[str]:
        """Tasks with their indexes and tries, sorted."""
        return sorted(run.tags["tracklayer.key"].rpartition("/")[2] for run in self.stages)


def task_of(run: Run) -> str:
    """``train[1]`` of the key ``kubeflow:default/flights/1/train[1]#2``."""
    return run.tags["tracklayer.key"].rpartition("/")[2].rpartition("#")[0]


def links(run: Run) -> dict[str, str]:
    """Kinds of its links, by upstream run id."""
    return {link.run.run_id: link.kind for link in read_links(run.tags)}


@dataclass
class Executor:
    """One execution of a component's code by KFP's executor, as KFP's launcher would start it.

    Attributes:
        folder: where the code and the outputs go.
        code: source of the function ``component``.
        parameters: its parameters.
        place: path of the task's outputs below `folder`; by default in a pipeline run of that folder's own, for stage runs
            of a pipeline run are one story in whatever experiment they are.
    """

    folder: Path
    code: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.place:
            self.place = f"flow-2026-11-21-10-00-00-{crc32(bytes(self.folder)) % 1_000_000:06}/task"

    @property
    def output_file(self) -> Path:
        """Where the executor writes its output."""
        return self.folder / self.place / "executor_output.json"

    @property
    def executor_input(self) -> dict[str, Any]:
        """KFP's ``ExecutorInput``."""
        outputs = {
            name: {
                "artifacts": [
                    {
                        "name": name,
                        "uri": str(self.output_file.with_name(name)),
                        "type": {"schemaTitle": kind, "schemaVersion": "0.0.1"},
                        "metadata": {},
                    }
                ]
            }
            for name, kind in self.artifacts.items()
        }
        return {
            "inputs": {"parameterValues": dict(self.parameters)},
            "outputs": {
                "parameters": {"Output": {"outputFile": str(self.output_file.with_name("Output"))}},
                "artifacts": outputs,
                "outputFile": str(self.output_file),
            },
        }

    def command(self, *, tracked: bool = True, stage: str = "training") -> list[str]:
        """The command line, with or without the supervisor."""
        self.output_file.parent.mkdir(parents=True, exist_ok=True)
        module = self.folder / "code_of_component.py"
        module.write_text(f"from kfp import dsl\nfrom kfp.dsl import *\nfrom typing import *\n\n{self.code}\n")
        supervisor = ["tracklayer_kubeflow.supervise", "--stage", stage, "-m"] if tracked else []
        return [
            *(sys.executable, "-m", *supervisor, "kfp.dsl.executor_main"),
            *("--component_module_path", str(module), "--function_to_execute", "component"),
            *("--executor_input", json.dumps(self.executor_input)),
        ]

    def run(
        self, *, tracked: bool = True, environ: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run it and wait for its end."""
        return subprocess.run(
            [*self.command(tracked=tracked), *arguments],
            env={**os.environ, **(environ or {})},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
