from __future__ import annotations

import copy
import pickle
from types import MappingProxyType

import pytest

from tracklayer import RunContext, TaskRun, WorkflowRun


@pytest.mark.parametrize("params", [{}, {"lr": 0.1}, MappingProxyType({"model": {"lr": 0.1}})])
def test_a_context_goes_to_another_process_as_it_is(params: dict[str, object]) -> None:
    run = WorkflowRun(orchestrator="cron", workflow="flights", run_id="1", params=params)
    context = RunContext(workflow_run=run, task_run=TaskRun(task="train", tags=MappingProxyType({"pool": "gpu"})))
    assert pickle.loads(pickle.dumps(context)) == context
    assert copy.deepcopy(context) == context


def test_nothing_can_be_put_into_a_context_that_says_nothing() -> None:
    run = WorkflowRun(orchestrator="cron", workflow="flights", run_id="1")
    with pytest.raises(TypeError):
        run.params["lr"] = 0.1  # type: ignore[index]  # it must not work
