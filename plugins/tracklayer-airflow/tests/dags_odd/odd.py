"""Odd operators and odd values: each of them once tracked, and once as it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from airflow.providers.common.compat.sdk import AirflowSkipException  # 3.1 has it elsewhere
from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, task

import tracklayer
from tracklayer_airflow import Tracked, tracked


class Broken:
    """Whatever is asked of it, it raises."""

    def _raise(self, *_: object) -> Any:
        raise RuntimeError("do not look at me")

    __eq__ = __hash__ = __repr__ = __str__ = __len__ = __bool__ = __iter__ = _raise

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._raise()


class BrokenList(list[int]):
    def __len__(self) -> int:
        raise RuntimeError("do not count me")


class Colour(Enum):
    RED = "red"


def with_default(value: Any) -> Any:
    """A function with an odd value that Airflow itself never looks at: what it does with one is its own business."""

    def of_value(lr: float, odd: Any = value, **more: Any) -> str:
        return type(odd).__name__

    return of_value


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def many(depth: int) -> list[Any]:
    """More than anybody could count, though it takes no room."""
    found: list[Any] = [0]
    for _ in range(depth):
        found = [found] * 100
    return found


VALUES: dict[str, Any] = {
    "frame": pd.DataFrame({"a": [1, 2]}),
    "array": np.arange(3),
    "float64": np.float64(0.5),
    "broken": Broken(),
    "broken_list": BrokenList(),
    "endless": endless(),
    "many": many(5),
    "long": "x" * 1_000_000,
}


class OfConfig(BaseOperator):
    """Sets attributes in its `__init__` that are called as arguments of tracking."""

    template_fields = ("words",)

    def __init__(self, *, words: str = "{{ dag.dag_id }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        config = {"stage": "of the operator", "run_name": "{{ not.a.template", "experiment": len}
        self.words = words
        self.stage = config["stage"]
        self.run_name = config["run_name"]
        self.experiment = config["experiment"]

    def execute(self, context: Any) -> list[Any]:
        return [self.stage, self.run_name, self.experiment("four"), self.words.partition("_")[0]]  # type: ignore[operator]


class OfClass(BaseOperator):
    """Has a method, a property and a class attribute that are called so, and some of our other names."""

    template_fields = ("run_tags",)
    run_tags = "{{ dag.dag_id }}"
    taken = "mine"
    mlflow_run_url = property(lambda self: "https://mlflow.example.com")
    experiment = property(lambda self: "of the property")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tracked = [1]
        self._how = 2

    def stage(self) -> str:
        return "of the method"

    def run_name(self) -> str:
        return "of the other method"

    def execute(self, context: Any) -> list[Any]:
        of_class = [self.stage(), self.run_name(), self.experiment, self.run_tags.partition("_")[0]]
        return [*of_class, self.taken, self.mlflow_run_url, self._tracked, self._how]


class Own(BaseOperator):
    """What an author of operators writes."""

    experiment = "of the class"

    def execute(self, context: Any) -> Any:
        run = tracklayer.current_run()
        return [self.experiment, run is not None and run.run_id is not None]


class Put(BaseOperator):
    """Puts what it does in its own place, as whoever chooses it when a DAG is read does."""

    template_fields = ("words",)

    def __init__(self, *, words: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = words
        self.execute = partial(self._does, len)  # type: ignore[method-assign]

    def _does(self, count: Any, context: Any) -> list[Any]:
        run = tracklayer.current_run()
        return [run is not None and run.run_id is not None, context["ti"].task.words, count([])]


def with_answer(operator: BaseOperator) -> None:
    """As whoever wraps operators that are there already: what it did before is called from within."""
    before = operator.execute
    operator.execute = lambda context: ["wrapped", *before(context)]  # type: ignore[method-assign]


class Deferring(BaseOperator):
    def execute(self, context: Any) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(0)), method_name="finish", kwargs={})

    def finish(self, context: Any, event: Any = None) -> str:
        return "finished"


class Rewriting:
    """A mixin that stands in front of everything."""

    def execute(self, context: Any) -> Any:
        return ["mixed in", *super().execute(context)]  # type: ignore[misc]


class Failing(BaseOperator):
    template_fields = ("words",)

    def __init__(self, *, words: str = "", how: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = words
        self.how = how

    def pre_execute(self, context: Any) -> None:
        if self.how == "skip":
            raise AirflowSkipException("not today")
        if self.how:
            raise LookupError(self.how)

    def execute(self, context: Any) -> None:
        """Does nothing."""


def of(kind: type[BaseOperator], dag_id: str) -> Any:
    return tracked(kind) if dag_id == "odd" else kind


def of_tracking(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments if ours else {}


for dag_id in ("odd", "odd_untracked"):
    ours = dag_id == "odd"
    with DAG(dag_id, schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
        for name, value in VALUES.items():
            of(PythonOperator, dag_id)(
                task_id=name, python_callable=with_default(value), op_kwargs={"lr": 0.1, "colour": Colour.RED}
            )
        of(OfConfig, dag_id)(task_id="of_config", **of_tracking({"stage": "given", "run_name": "{{ dag.dag_id }}!"}))
        of(OfConfig, dag_id).partial(
            task_id="of_config_mapped", **of_tracking({"run_name": "odd {{ ti.map_index }}"})
        ).expand(words=["a_b"])
        of(OfClass, dag_id)(
            task_id="of_class",
            **of_tracking({"stage": "given", "experiment": "odd {{ dag.dag_id }}", "run_tags": {"team": "x"}}),
        )
        of(OfClass, dag_id).partial(task_id="of_class_mapped").expand(do_xcom_push=[True])
        of(Failing, dag_id)(task_id="unrendered", words="{{ no_such_thing.at_all }}", **of_tracking({"run_name": "x"}))
        of(Failing, dag_id)(task_id="before", how="no table", **of_tracking({"run_name": "{{ dag.dag_id }}!"}))
        of(Failing, dag_id)(task_id="before_skipped", how="skip")
        of(Failing, dag_id).partial(task_id="mapped_before").expand(words=["{{ nothing.there }}", "b"])

        @task
        def frame() -> Any:
            return pd.DataFrame({"a": [1, 2]})

        @(task.tracked if ours else task)  # type: ignore[untyped-decorator]
        def train(df: Any, lr: float = 0.5) -> int:
            return len(df)

        train(frame())

        @(task.tracked(stage="lazy") if ours else task)
        def lazily(results: Any, lr: float = 0.5) -> str:
            return type(results).__name__

        @task
        def one(number: int) -> int:
            return number

        lazily(one.expand(number=[1, 2, 3]))

    class Mine(*((Tracked,) if ours else ()), Own):  # type: ignore[misc]
        """As the README has it, with an `execute` of its own."""

        def execute(self, context: Any) -> Any:
            run = tracklayer.current_run()
            return [run is not None and run.run_id is not None, *super().execute(context)]

    class MineDeferring(*((Tracked,) if ours else ()), Deferring):  # type: ignore[misc]
        def resume_execution(self, *args: Any, **kwargs: Any) -> Any:
            return [super().resume_execution(*args, **kwargs), "and mine"]

    class MineMixed(Rewriting, *((Tracked,) if ours else ()), Own):  # type: ignore[misc]
        names: ClassVar[list[str]] = []

    class MineAlone(*((Tracked,) if ours else ()), BaseOperator):  # type: ignore[misc]
        template_fields = ("experiment",)

        def __init__(self, *, experiment: str, **kwargs: Any) -> None:
            self.experiment = experiment
            super().__init__(**kwargs)

        def execute(self, context: Any) -> Any:
            if self.experiment.endswith("fail"):
                raise ValueError("no data")
            return self.experiment.partition("_")[0]

    with DAG(f"{dag_id}_classes", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
        Mine(task_id="mine", **of_tracking({"experiment": "odd mine"}))
        MineDeferring(task_id="mine_deferring")
        MineMixed(task_id="mine_mixed")
        MineAlone(task_id="mine_alone", experiment="{{ dag.dag_id }}")
        MineAlone(task_id="mine_failing", experiment="fail")
        of(Put, dag_id)(task_id="put", words="{{ dag.dag_id.partition('_')[0] }}", **of_tracking({"run_name": "put"}))
        of(Put, dag_id).partial(task_id="put_mapped").expand(words=["a"])
        with_answer(Mine(task_id="mine_wrapped"))
        MineAlone.partial(task_id="mine_mapped").expand(experiment=["{{ dag.dag_id }}"])

with DAG("odd_native", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), render_template_as_native_obj=True):
    of_words = {"python_callable": with_default(1), "op_kwargs": {"lr": 0.1}}
    number = "{{ 20250101 }}"
    tracked(PythonOperator)(task_id="numbers", run_name=number, experiment=number, **of_words)
    tracked(PythonOperator)(task_id="listed", run_name="{{ [1, 2] }}", run_tags={"n": number}, **of_words)
    tracked(PythonOperator)(task_id="wrong", run_name=object(), run_tags="{{ 'text' }}", stage=Colour.RED, **of_words)

with DAG("odd_switch", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task.tracked
    def asks() -> bool:
        run = tracklayer.current_run()
        assert run is not None
        run.log_params({"lr": 0.1})
        return run.run_id is None

    asks()

with DAG("odd_observed", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task
    def observed(df: Any, lr: float = 0.5) -> None:
        import mlflow

        with mlflow.start_run():
            mlflow.log_metric("rows", len(df))

    observed(pd.DataFrame({"a": [1, 2]}))

    @task
    def bare() -> None:
        import mlflow

        with mlflow.start_run():
            mlflow.log_metric("rows", 2)

    # As a cluster policy may set it: Airflow wants a list there, and does not look before the task fails.
    bare().operator.on_failure_callback = print  # type: ignore[attr-defined]


class ComesBack(Failing):
    """Has begun a run when its template is rendered for the second time."""

    def execute(self, context: Any) -> None:
        import mlflow

        mlflow.start_run(run_name="begun")
        self.defer(trigger=TimeDeltaTrigger(timedelta(0)), method_name="finish")

    def finish(self, context: Any, event: Any = None) -> None:
        """Is not called."""


def once(name: str, calls: list[str] = []) -> str:  # noqa: B006  # it is to be remembered
    calls.append(name)
    if calls.count(name) > 1:
        raise LookupError("not again")
    return ""


with DAG("odd_before", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), user_defined_macros={"once": once}):
    ComesBack(task_id="comes_back", words="{{ once('observed') }}")
    tracked(ComesBack)(task_id="comes_back_tracked", words="{{ once('tracked') }}")

    @task
    def first() -> str:
        return "a"

    begun = first()
    Failing(task_id="unrendered", words="{{ no_such_thing.at_all }}", retries=1, retry_delay=timedelta(0)) << begun
    Failing(task_id="before", how="no table") << begun
    Failing(task_id="before_skipped", how="skip") << begun
    Failing.partial(task_id="mapped_before").expand(words=["{{ nothing.there }}", "b"]) << begun

with DAG("odd_tried", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):

    @task.tracked
    def good() -> None: ...

    @task.tracked
    def bad() -> None:
        raise ValueError("no data")

    @task
    def by_itself() -> None:
        import mlflow

        with mlflow.start_run():
            mlflow.log_metric("rows", 1)

    good(), bad(), by_itself()
