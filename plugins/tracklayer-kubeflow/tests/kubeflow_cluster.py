"""KFP's back end as far as a task sees it, without a cluster: what its driver and its launcher do with a compiled pipeline.

The compiled YAML is parsed into KFP's own messages; a task's command is run exactly as it stands there, with a clean
environment, the values that Kubernetes' downward API would fill in, and an ``ExecutorInput`` as KFP's driver writes
it; the metadata of what it made goes back to the tasks that come after.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.pipeline_spec import pipeline_spec_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping


def compiled(pipeline: Any, folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The YAML of a pipeline, its specification and its platforms' part, both checked against KFP's messages."""
    path = folder / f"{uuid.uuid4().hex}.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    text = path.read_text()
    spec, *platform = yaml.safe_load_all(text)
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    if platform:
        json_format.ParseDict(platform[0], pipeline_spec_pb2.PlatformSpec())
    return text, spec, platform[0] if platform else {}


@dataclass
class Cluster:
    """One run of a compiled pipeline.

    Attributes:
        folder: stands for the pods' file systems.
        spec: the pipeline's specification.
        platform: Kubernetes' part of it.
        environ: what the images set.
        run_id: KFP's id of the run.
    """

    folder: Path
    spec: Mapping[str, Any]
    platform: Mapping[str, Any]
    environ: Mapping[str, str]
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    salts: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.spec["pipelineInfo"]["name"])

    def run(
        self,
        component: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        artifacts: Mapping[str, Mapping[str, Any]] | None = None,
        task: str | None = None,
        node: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a task's container.

        Args:
            component: name of the component, without ``comp-``.
            parameters: its input parameters.
            artifacts: its input artifacts, as `Ran.artifact` gives them.
            task: the task's name, if that is not the component's.
            node: where Argo has the task below the root, if not directly (with iterations and try).
            environ: more variables.
        """
        task = task or component
        definition = self.spec["components"][f"comp-{component}"]
        place = re.sub(r"\(\d+\)$", "", node)  # the same for all tries
        salt = self.salts.setdefault(f"{component} {place}", str(uuid.uuid4()))
        root = self.folder / "minio/mlpipeline/v2/artifacts" / self.name / self.run_id / task / salt
        told = self._executor_input(definition, parameters or {}, artifacts or {}, root)
        container = self.spec["deploymentSpec"]["executors"][definition["executorLabel"]]["container"]
        arguments = [json.dumps(told) if part == "{{$}}" else part for part in container["args"]]
        downward = {
            "metadata.labels['pipeline/runid']": self.run_id,
            "metadata.annotations['workflows.argoproj.io/node-name']": f"{self.name}-x7k2p.root.{node or f'{task}.executor'}",
        }
        config = self.platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        fields = config.get(definition["executorLabel"], {}).get("fieldPathAsEnv", ())
        process = subprocess.run(
            [*container["command"], *arguments],
            env={
                "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
                "HOME": str(self.folder),
                "KFP_POD_NAME": f"{self.name}-x7k2p-{task}",
                **{name: os.environ[name] for name in ("TMPDIR",) if name in os.environ},
                "PYTHONPYCACHEPREFIX": os.environ.get("PYTHONPYCACHEPREFIX", ""),
                "TRACKLAYER_PATIENCE": os.environ["TRACKLAYER_PATIENCE"],
                **self.environ,
                **{item["name"]: item["value"] for item in container.get("env", ())},
                **{item["name"]: downward[item["fieldPath"]] for item in fields},
                **(environ or {}),
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ran(process, Path(told["outputs"]["outputFile"]))

    def _executor_input(
        self,
        definition: Mapping[str, Any],
        parameters: Mapping[str, Any],
        artifacts: Mapping[str, Mapping[str, Any]],
        root: Path,
    ) -> dict[str, Any]:
        made = definition.get("outputDefinitions", {})
        told = {
            "inputs": {
                "parameterValues": dict(parameters),
                "artifacts": {name: {"artifacts": [artifact]} for name, artifact in artifacts.items()},
            },
            "outputs": {
                "parameters": {name: {"outputFile": str(root / name)} for name in made.get("parameters", {})},
                "artifacts": {
                    name: {
                        "artifacts": [
                            {"name": name, "uri": str(root / name), "type": one["artifactType"], "metadata": {}}
                        ]
                    }
                    for name, one in made.get("artifacts", {}).items()
                },
                "outputFile": str(root / "output_metadata.json"),
            },
        }
        json_format.ParseDict(told, pipeline_spec_pb2.ExecutorInput())
        return told


@dataclass
class Ran:
    """A container that has ended."""

    process: subprocess.CompletedProcess[str]
    output_file: Path

    @property
    def code(self) -> int:
        """Its exit code."""
        return self.process.returncode

    @property
    def output(self) -> dict[str, Any]:
        """KFP's ``ExecutorOutput``, checked against its message."""
        told: dict[str, Any] = json.loads(self.output_file.read_text())
        json_format.ParseDict(told, pipeline_spec_pb2.ExecutorOutput())
        return told

    def artifact(self, name: str, *, uri: str | None = None) -> dict[str, Any]:
        """An output artifact as a task that takes it gets it; its metadata has gone through KFP's store of metadata."""
        made = self.output["artifacts"][name]["artifacts"][0]
        for key, value in made["metadata"].items():
            assert isinstance(value, (str, int, float)), f"{key} would not be stored as it is: {value!r}"
            assert not isinstance(value, bool), f"{key} would become a number"
        return {"name": "1742", "uri": uri or made["uri"], "metadata": made["metadata"]}
