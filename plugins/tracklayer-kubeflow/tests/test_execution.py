from __future__ import annotations

import json

import pytest

from tracklayer_kubeflow.execution import Execution, execution_of, parse
from tracklayer_kubeflow.task import parameters

TOLD = {
    "inputs": {
        "parameterValues": {"lr": 0.1, "pipelinechannel--x-Output": "v", "tracklayer_token": "tl1.x", "names": ["a"]},
        "artifacts": {
            "data": {
                "artifacts": [
                    {
                        "name": "7",
                        "type": {"schemaTitle": "system.Dataset"},
                        "uri": "s3://b/1",
                        "metadata": {"rows": 3},
                    },
                    {"name": "8", "uri": "s3://b/2"},
                ]
            }
        },
    },
    "outputs": {
        "artifacts": {"model": {"artifacts": [{"name": "model", "uri": "s3://b/m"}]}},
        "outputFile": "/tmp/kfp_outputs/output_metadata.json",
    },
}


@pytest.mark.parametrize(
    "arguments", [["--executor_input", json.dumps(TOLD)], [f"--executor_input={json.dumps(TOLD)}"]]
)
def test_what_kfp_tells(arguments: list[str]) -> None:
    execution = execution_of(["x.py", "--component_module_path", "y.py", *arguments, "--function_to_execute", "f"])
    assert execution is not None
    assert [(artifact.name, artifact.kind, artifact.uri) for artifact in execution.inputs] == [
        ("data", "system.Dataset", "s3://b/1"),
        ("data", "", "s3://b/2"),
    ]
    assert execution.inputs[0].metadata == {"rows": 3}
    assert execution.places == ("/tmp/kfp_outputs/output_metadata.json", "s3://b/m")
    assert parameters(execution) == {"lr": 0.1, "names": ["a"]}


def test_the_final_status_of_an_exit_handler_is_no_param() -> None:
    status = {"state": "FAILED", "pipelineJobResourceName": "x", "pipelineTaskName": "y"}
    assert parameters(Execution(parameters={"status": status, "who": "me"})) == {"who": "me"}


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "7", "{", '{"inputs": 3, "outputs": []}', '{"outputs": {"outputFile": 3}}']
)
def test_odd_forms_are_passed_over(text: str) -> None:
    execution = parse(text)
    assert execution is None or execution == Execution()


def test_a_process_of_another_kind() -> None:
    assert execution_of(["python", "train.py", "--executor_input"]) is None
