"""`tracked`, as far as it can be seen without running anything; in a process of its own, where Airflow is at home."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from harness.airflow import AirflowHome

pytestmark = pytest.mark.timeout(1_200)

START = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, task
from tracklayer_airflow import Tracked, TrackedPythonOperator, tracked
"""


def run(airflow_home: AirflowHome, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + code],
        env=airflow_home.environ(),
        cwd=airflow_home.folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_class_is_both(airflow_home: AirflowHome) -> None:
    output = run(
        airflow_home,
        """
kind = tracked(TriggerDagRunOperator)
assert tracked(TriggerDagRunOperator) is kind
assert issubclass(kind, Tracked) and issubclass(kind, TriggerDagRunOperator)
assert set(kind.template_fields) == {*TriggerDagRunOperator.template_fields, "run_name", "experiment", "run_tags"}
print(kind.__name__, [link.name for link in kind.operator_extra_links])
assert "Triggers a DAG run" in kind.__doc__
""",
    )
    assert output.splitlines()[-1].split(maxsplit=1) == [  # Airflow 3.2 logs a warning to standard output
        "TrackedTriggerDagRunOperator",
        "['Triggered DAG', 'MLflow run', 'MLflow DAG run']",
    ]


def test_dags_are_serialized_with_it(airflow_home: AirflowHome) -> None:
    run(
        airflow_home,
        """
try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # Airflow 3.1
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization
from tracklayer_airflow.workflow import is_tracked, is_tracked_operator
with DAG("d", default_args={"stage": "training"}) as dag:
    one = tracked(BashOperator)(task_id="one", bash_command="true")
    tracked(BashOperator).partial(task_id="many", run_name="{{ ti.map_index }}").expand(bash_command=["a", "b"])
assert one.stage == "training"
serialized = DagSerialization.from_dict(DagSerialization.to_dict(dag))
assert is_tracked(serialized)
assert serialized.task_dict["one"].operator_name == "TrackedBashOperator"
assert "run_tags" in serialized.task_dict["many"].template_fields

class Named(BashOperator):
    def __init__(self, *, run_name="the job's", experiment=None, **kwargs):
        super().__init__(**kwargs)

with DAG("named") as dag:
    plain = BashOperator(task_id="plain", bash_command="true")
    named = tracked(Named)(task_id="named", bash_command="true")
    many = tracked(Named).partial(task_id="many").expand(bash_command=["a", "b"])
serialized = DagSerialization.from_dict(DagSerialization.to_dict(dag))
assert "run_name" not in named.template_fields
for kind in (dag, serialized):
    assert is_tracked(kind)
    kinds = {task_id: is_tracked_operator(task) for task_id, task in kind.task_dict.items()}
    assert kinds == {"plain": False, "named": True, "many": True}, kinds
""",
    )


SOURCES = """
import lib
from tracklayer_airflow import tracked as followed

remote = tracked(task.external_python)
bare = tracked(task.external_python)(python=sys.executable, stage="elsewhere")

def timed(function):
    return function

with DAG("sources", schedule=None):
    @remote(
        python=sys.executable,
        stage="elsewhere",
    )
    @timed
    def one(): return 1

    @bare
    def two(): return 1

    @followed(task.external_python)(python=sys.executable)
    def three(): return 1

    @lib.remote(python=sys.executable)
    def four(): return 1

    @lib.tracked(task.virtualenv)(requirements=["mlflow-skinny"])
    def five(): return 1

def build():
    local = tracked(task.external_python)
    with DAG("local", schedule=None):
        @local(python=sys.executable)
        def six(): return 1
        return six()

made = [one(), two(), three(), four(), five(), build()]
for name, result in zip(("one", "two", "three", "four", "five", "six"), made, strict=True):
    source = result.operator.get_python_source()
    timed_too = "@timed\\n" if name == "one" else ""
    assert source == f"{timed_too}def {name}(): return 1\\n", source
"""


def test_a_function_goes_elsewhere_without_what_tracks_it(airflow_home: AirflowHome) -> None:
    """By whatever name: over there nothing of it is known."""
    lib = airflow_home.folder / "lib.py"
    lib.write_text(
        "from airflow.sdk import task\nfrom tracklayer_airflow import tracked\nremote = tracked(task.external_python)\n"
    )
    script = airflow_home.folder / "sources.py"
    script.write_text(f"import sys\n{START}\n{SOURCES}")
    run(airflow_home, f"import runpy, sys\nsys.path.insert(0, {str(lib.parent)!r})\nrunpy.run_path({str(script)!r})")


PICKLED = """
from functools import partial
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, BaseOperator, task
from tracklayer_airflow import Tracked, tracked

def choose(): return []
def double(number): return 2 * number

class Plain(BaseOperator):
    class Within(BaseOperator): ...

class Put(Plain):
    def __init__(self, **more):
        super().__init__(**more)
        self.execute = partial(self.multiply, 2)
    def multiply(self, number, context): return 2 * number

class Own(Tracked, Plain): ...
class Derived(tracked(Plain)): ...
@tracked
class Decorated(Plain): ...

class OfClasses(type(Plain)): ...
class WithClass(Plain, metaclass=OfClasses): ...
class Both(tracked(Plain), WithClass): ...

with DAG("pickled") as dag:
    for number, kind in enumerate((Plain, tracked(Plain), tracked(Plain.Within), tracked(Put), Own, Derived, Decorated, tracked(WithClass), Both)):
        kind(task_id=f"one{number}")
    tracked(PythonOperator)(task_id="python", python_callable=choose, stage="training")
    tracked(PythonOperator).partial(task_id="many", python_callable=double).expand(op_args=[[1], [2]])
    tracked(task.branch)(stage="evaluation")(choose)()
    tracked(task.short_circuit)(double).expand(number=[1, 2])
"""


def test_operators_are_pickled_as_untracked_ones(airflow_home: AirflowHome, tmp_path: Path) -> None:
    """Each with its whole DAG, also where another process makes the classes anew; and copied."""
    (tmp_path / "pickled.py").write_text(PICKLED)
    found = f"import copy, pickle, sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    output = run(
        airflow_home,
        f"""{found}
import pickled
for one in pickled.dag.tasks:
    for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert type(again) is type(one), again
        assert again.dag.task_ids == pickled.dag.task_ids
        assert again.operator_class is one.operator_class if one.is_mapped else again.prepare_for_execution()
print(pickle.dumps(pickled.dag.get_task("python")).hex())
""",
    )
    run(
        airflow_home,
        f"""{found}
python = pickle.loads(bytes.fromhex({output.split()[-1]!r}))
from airflow.providers.standard.operators.python import PythonOperator
assert type(python) is python.dag.get_task("many").operator_class is tracked(PythonOperator)
assert python.stage == "training"
""",
    )


def test_a_deep_copy_does_its_own_work(airflow_home: AirflowHome) -> None:
    """Also where what it executes is set on the instance, and a method of that."""
    output = run(
        airflow_home,
        """
import copy
from functools import partial
from airflow.sdk import BaseOperator

class Put(BaseOperator):
    def __init__(self, **more):
        super().__init__(**more)
        self.factor = 2
        self.execute = partial(self.multiply, 2)
    def multiply(self, number, context): return self.factor * number

with DAG("copied"):
    one, by_method = tracked(Put)(task_id="one"), tracked(Put)(task_id="by_method")
by_method.execute = by_method.pre_execute
for operator in (one, by_method):
    again = copy.deepcopy(operator)
    assert again.execute is not operator.execute
    assert again.execute._operator is again
    assert copy.deepcopy(again.execute)._operator is not again
again = copy.deepcopy(one)
again.factor = 5
print(again.execute({}), one.execute({}), copy.copy(one).execute({}))
assert copy.deepcopy(by_method).execute._method.__self__ is not by_method
""",
    )
    assert output.split()[-3:] == ["10", "4", "4"]


WRONG = {
    "tracked(BashOperator)": "TrackedBashOperator is tracked already",
    "TrackedPythonOperator": "TrackedPythonOperator is tracked already",
    "BashOperator(task_id='one', bash_command='')": "not the task 'one': the class is meant, BashOperator",
    "run": "not the function run(), for which there is @task.tracked",
    "int": "takes a class of operators",
    "'BashOperator'": "not 'BashOperator'",
    "task.tracked)(run": "TrackedDecoratedOperator is tracked already",
}


@pytest.fixture(scope="module")
def said(airflow_home: AirflowHome) -> dict[str, str]:
    """What is said of each, all in one process."""
    tries = [f"try: tracked({wrong})\nexcept TypeError as error: said[{wrong!r}] = str(error)" for wrong in WRONG]
    code = "\n".join(["import json", "def run(): ...", "said = {}", *tries, "print(json.dumps(said))"])
    found: dict[str, str] = json.loads(run(airflow_home, code).splitlines()[-1])
    return found


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_operator_class_is_named(said: dict[str, str], wrong: str) -> None:
    assert WRONG[wrong] in said[wrong]
