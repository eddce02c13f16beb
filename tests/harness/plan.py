"""What the user's code of a fault test is to do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Plan:
    """What the code is to do.

    Attributes:
        ledger: file of the ledger.
        workflow: name of the workflow, and so of the experiment.
        run_id: the workflow run.
        label: what the labels of its runs begin with; its tasks are named after it.
        tracked: False runs the same code without any call.
        script: True: no orchestrator says where the code runs; else a made-up one does.
        close: whether the code also ends the workflow run, as an orchestrator does.
        alone: whether the orchestrator says that nobody else makes the parent.
        own: whether tracklayer's own calls are made.
        mlflow: whether MLflow's calls are made.
        rounds: how often each stage makes all calls.
        points: metric points in a round.
        many: how often a round logs 65 metric points by one call.
        once: whether the first round of a stage has the calls of `harness.once`; some of what they log is refused.
        nested: whether a round has a nested run, and the first one another that is opened again.
        files: whether a round has artifacts and datasets.
        temporary: whether MLflow is made to write files of its own into the folder for temporary ones.
        stages: how many stages, each linked to the one before.
        pace: seconds of sleep after each call.
        pauses: places at which to wait until the test says ``go``.
        ending: ``ok``, ``raise``, ``exit``: how the code ends.
        children: what else the first stage does, by its name in `harness.offspring`; ``""``: nothing.
        trace: kill itself before so many lines of tracklayer's code; 0: never; -1: count them.
    """

    ledger: str
    workflow: str
    run_id: str = "r1"
    label: str = "t"
    tracked: bool = True
    script: bool = False
    close: bool = True
    alone: bool = False
    own: bool = True
    mlflow: bool = True
    rounds: int = 2
    points: int = 5
    many: int = 0
    once: bool = True
    nested: bool = True
    files: bool = True
    temporary: bool = True
    stages: int = 2
    pace: float = 0.0
    pauses: tuple[str, ...] = ()
    ending: str = "ok"
    children: str = ""
    trace: int = 0

    def run_label(self, task: str) -> str:
        """The label of the run of one of its tasks: whatever experiment it lands in, it is this workflow's."""
        return f"{self.workflow}/{self.label}.{task}"

    def text(self) -> str:
        """The plan as an argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Plan:
        """The plan of an argument."""
        told = json.loads(text)
        return cls(**{**told, "pauses": tuple(told["pauses"])})
