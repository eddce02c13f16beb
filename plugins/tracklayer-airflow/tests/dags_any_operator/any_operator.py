"""Operators of every kind, tracked by `tracked`; those of providers that are not installed have a double here."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import (
    BranchPythonOperator,
    ExternalPythonOperator,
    PythonOperator,
    PythonVirtualenvOperator,
    ShortCircuitOperator,
)
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, BaseOperatorLink, BaseSensorOperator, PokeReturnValue, task

from tracklayer_airflow import tracked

SCRIPT = Path(__file__).with_name("plain_mlflow.txt")
VIRTUALENVS = f"{os.environ['AIRFLOW_HOME']}/virtualenvs"
"""Where they are kept: each takes seconds to be made."""
NAMES = ("TRACKLAYER_PARENT", "MLFLOW_TRACKING_URI")
PRINT = f"import json, os; print(json.dumps([os.environ.get(name) for name in {NAMES!r}]))"


def run(environment: dict[str, str]) -> str:
    """What a process sees that has this environment and nothing else."""
    command = [sys.executable, "-c", PRINT]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


class Docker(BaseOperator):
    """Has the attribute of ``DockerOperator``."""

    def __init__(
        self, *, environment: dict[str, str] | None = None, env_file: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.image = "train:1"
        self.environment = environment or {}
        self.env_file = env_file

    def execute(self, context: Any) -> str:
        return run(self.environment)


class Pod(BaseOperator):
    """Has the attributes of ``KubernetesPodOperator``, which makes a list of ``V1EnvVar`` of what it is given."""

    def __init__(self, *, env_vars: dict[str, str] | None = None, env_from: Any = None, **kwargs: Any) -> None:
        from kubernetes.client.models import V1EnvVar  # type: ignore[import-untyped]

        super().__init__(**kwargs)
        self.image = "train:1"
        self.env_vars = [V1EnvVar(name=name, value=value) for name, value in (env_vars or {}).items()]
        self.env_from = env_from or []

    def execute(self, context: Any) -> str:
        return run({one.name: one.value for one in self.env_vars})


class Spark(BaseOperator):
    """Has the attributes of ``SparkSubmitOperator``."""

    def __init__(self, *, application: str, conf: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.application = application
        self.conf = conf
        self.env_vars = None

    def execute(self, context: Any) -> str:
        start = "spark.yarn.appMasterEnv."
        conf = self.conf or {}
        return run({name.removeprefix(start): value for name, value in conf.items() if name.startswith(start)})


class OwnLink(BaseOperatorLink):
    name = "Job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return "https://jobs.example.com/7"


class Named(BaseOperator):
    """Has arguments that are called as those of tracking, and a link and templated fields that are properties."""

    @property
    def operator_extra_links(self) -> Any:
        return (OwnLink(),)

    @operator_extra_links.setter
    def operator_extra_links(self, value: Any) -> None:
        raise AttributeError("it cannot be set")

    def __init__(self, *, run_name: str, stage: str = "@stage", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_name = run_name
        self.stage = stage

    def execute(self, context: Any) -> str:
        return f"{self.run_name} {self.stage}"


class Deferring(BaseOperator):
    def execute(self, context: Any) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(0)), method_name="finish", kwargs={})

    def finish(self, context: Any, event: Any = None) -> str:
        return os.environ.get("TRACKLAYER_PARENT", "")


class Rescheduled(BaseSensorOperator):
    """Is satisfied at its third poke."""

    def poke(self, context: Any) -> PokeReturnValue:
        return PokeReturnValue(context["task_reschedule_count"] >= 2, xcom_value="poked")


def token_here() -> str:
    import os

    return os.environ.get("TRACKLAYER_PARENT", "")


def poked(counter: list[int] = []) -> bool:  # noqa: B006  # it is to be remembered
    counter.append(1)
    return len(counter) > 2


TrackedBash = tracked(BashOperator)

for dag_id in ("any_operator", "any_operator_untracked"):
    with DAG(dag_id, schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), params={"model": "tree"}):
        bash = TrackedBash(
            task_id="bash",
            bash_command='echo "$TRACKLAYER_PARENT"',
            stage="training",
            run_name="bash of a {{ params.model }}",
        )
        TrackedBash.partial(task_id="folds", stage="training").expand(bash_command=["echo a", "echo b"])
        TrackedBash(task_id="failing", bash_command="exit 3")
        TrackedBash(task_id="skipping", bash_command="exit 99")
        TrackedBash(
            task_id="script",
            bash_command=f"{sys.executable} {SCRIPT} && echo $KEPT",
            env={"KEPT": "{{ params.model }}", "MLFLOW_EXPERIMENT_NAME": "scripts"},
        )
        TrackedBash(task_id="own", bash_command="echo $TRACKLAYER_PARENT", env={"TRACKLAYER_PARENT": "mine"})

        branch = tracked(BranchPythonOperator)(task_id="branch", python_callable=lambda: "taken", stage="decision")
        branch >> [EmptyOperator(task_id="taken"), EmptyOperator(task_id="not_taken")]

        @tracked(task.branch)(stage="decision")  # type: ignore[untyped-decorator]
        def choose(name: str) -> str:
            return name

        choose("chosen") >> [EmptyOperator(task_id="chosen"), EmptyOperator(task_id="not_chosen")]

        tracked(ShortCircuitOperator)(task_id="short", python_callable=lambda: False) >> EmptyOperator(task_id="cut")
        tracked(PythonSensor)(task_id="poked", python_callable=poked, poke_interval=0.1)
        tracked(Rescheduled)(task_id="rescheduled", mode="reschedule", poke_interval=0.1)
        tracked(Deferring)(task_id="deferring")

        tracked(ExternalPythonOperator)(
            task_id="external", python=sys.executable, python_callable=token_here, inherit_env=False, env_vars={}
        )
        tracked(ExternalPythonOperator)(task_id="inherits", python=sys.executable, python_callable=token_here)

        @tracked(task.external_python)(python=sys.executable, expect_airflow=False, stage="elsewhere")  # type: ignore[untyped-decorator]
        def outside(number: int) -> str:
            import os

            return f"{number} {os.environ.get('TRACKLAYER_PARENT')}"

        outside.expand(number=[1])

        tracked(PythonVirtualenvOperator)(
            task_id="virtualenv",
            python_callable=token_here,
            system_site_packages=False,
            inherit_env=False,
            env_vars={},
            venv_cache_path=VIRTUALENVS,
        )

        @tracked(task.virtualenv)(system_site_packages=True, venv_cache_path=VIRTUALENVS, stage="apart")  # type: ignore[untyped-decorator]
        def in_virtualenv(number: int) -> str:
            import os
            import sys

            return f"{number} {sys.prefix.split('/')[-2]} {os.environ.get('TRACKLAYER_PARENT')}"

        in_virtualenv(2)

        @tracked(task.virtualenv)(system_site_packages=False, venv_cache_path=VIRTUALENVS)  # type: ignore[untyped-decorator]
        def failing_in_virtualenv() -> None:
            raise ValueError("no data")

        failing_in_virtualenv()

        first = TrackedBash(task_id="first", bash_command="echo up").as_setup()
        last = TrackedBash(task_id="last", bash_command="echo down").as_teardown(setups=first)
        first >> PythonOperator(task_id="within", python_callable=lambda: None) >> last

        tracked(Docker)(task_id="docker", environment={"KEPT": "1"})
        tracked(Docker)(task_id="docker_file", env_file="MLFLOW_TRACKING_URI=http://other")
        tracked(Pod)(task_id="pod", env_vars={"MLFLOW_TRACKING_URI": "http://of-the-pod"})
        tracked(Pod)(task_id="bare_pod")
        tracked(Pod)(task_id="pod_with_map", env_from=["a config map"])
        tracked(Spark)(task_id="spark", application="train.py")
        tracked(Named)(task_id="named", run_name="the job's", run_tags={"team": "{{ params.model }}s"})

        bash >> TrackedBash(
            task_id="macros",
            bash_command="echo {{ macros.tracklayer.parent_id(ti) }} {{ macros.tracklayer.experiment_id(ti) }}"
            " {{ macros.tracklayer.parent_id(ti, 'nobody') }}.",
        )
