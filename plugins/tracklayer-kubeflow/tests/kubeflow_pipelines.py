"""Pipelines of all forms, as users write them. KFP reads annotations as they are: no ``annotations`` from the future."""

# ruff: noqa: PTH110, PTH123, T201, UP014 - components import what they need, and need as little as they can
# mypy: ignore-errors

from typing import NamedTuple

from kfp import dsl

from tracklayer_kubeflow import finish_component, tracked_component, tracked_pipeline

component = dsl.component(base_image="python:3.11", install_kfp_package=False)


@tracked_component(stage="data-prep")
@component
def prepare(rows: int, data: dsl.Output[dsl.Dataset]) -> str:
    with open(data.path, "w") as file:
        file.write("x" * rows)
    data.metadata["rows"] = rows
    return "v1"


@tracked_component(stage="training")
@component
def train(
    data: dsl.Input[dsl.Dataset],
    lr: float,
    model: dsl.Output[dsl.Model],
    scores: dsl.Output[dsl.Metrics],
) -> NamedTuple("Trained", [("auc", float), ("note", str)]):
    import tracklayer

    with open(data.path) as file:
        rows = len(file.read())
    with open(model.path, "w") as file:
        file.write(f"a model of {rows} rows")
    scores.log_metric("loss", 0.25)
    run = tracklayer.current_run()
    run.log_metrics({"by_user": 1.0}, step=1)
    run.set_tags({"from": "the component"})
    trained = NamedTuple("Trained", [("auc", float), ("note", str)])
    return trained(0.9, "good")


@tracked_component(stage="evaluation")
@component
def evaluate(auc: float, at_least: float) -> str:
    if auc < at_least:
        raise ValueError(f"an AUC of {auc} is too low")
    return "good enough"


@tracked_pipeline
@dsl.pipeline(name="straight", description="Prepares, trains, evaluates.")
def straight(rows: int = 3, lr: float = 0.1, at_least: float = 0.5) -> None:
    prepared = prepare(rows=rows)
    trained = train(data=prepared.outputs["data"], lr=lr)
    evaluate(auc=trained.outputs["auc"], at_least=at_least)


@component
def untracked(text: str) -> str:
    return text.upper()


@tracked_component(stage="first")
@component
def make(number: int) -> str:
    return f"value {number}"


@tracked_component(stage="second")
@component
def use(value: str) -> str:
    return value


@tracked_component
@component
def note(value: str) -> None:
    print(value)


@tracked_component
@component
def collect(values: list) -> int:
    return len(values)


@dsl.pipeline(name="inner")
def inner(number: int) -> str:
    made = make(number=number)
    return use(value=made.output).output


@tracked_pipeline
@dsl.pipeline(name="nested")
def nested(number: int = 1) -> str:
    first = inner(number=number)
    second = inner(number=7)
    between = untracked(text=first.output)
    use(value=between.output).after(second)
    return second.output


@tracked_pipeline
@dsl.pipeline(name="loops")
def loops(number: int = 1) -> None:
    made = make(number=number)
    with dsl.ParallelFor([10, 20, 30]) as item:
        in_loop = make(number=item)
        use(value=in_loop.output)
        note(value=made.output)


@tracked_pipeline
@dsl.pipeline(name="fork")
def fork(number: int = 1, auc: float = 0.9) -> None:
    made = make(number=number)
    use(value=made.output)
    note(value=made.output)
    evaluate(auc=auc, at_least=0.5).after(made)


@tracked_pipeline
@dsl.pipeline(name="collected")
def collected() -> None:
    with dsl.ParallelFor([10, 20, 30]) as item:
        made = make(number=item)
    collect(values=dsl.Collected(made.output))


@tracked_pipeline
@dsl.pipeline(name="conditions")
def conditions(number: int = 1) -> None:
    made = make(number=number)
    with dsl.If(number > 5):
        use(value="large")
    with dsl.Else():
        use(value=made.output)


@dsl.pipeline(name="plain")
def plain(number: int = 1) -> None:
    use(value=make(number=number).output)


@tracked_component(stage="flaky")
@component
def flaky(marker: str) -> str:
    import os

    if os.path.exists(marker):
        return "done"
    with open(marker, "w"):
        pass
    raise ConnectionError("try again")


@tracked_pipeline
@dsl.pipeline(name="retries")
def retries(marker: str) -> None:
    use(value=flaky(marker=marker).set_retry(num_retries=2, backoff_duration="0s").output)


finish = finish_component(base_image="python:3.11", install_kfp_package=False)


@tracked_pipeline
@dsl.pipeline(name="exits")
def exits(number: int = 1) -> None:
    with dsl.ExitHandler(finish()):
        make(number=number)


@component
def by_hand(number: int) -> None:
    import tracklayer

    with tracklayer.track("counting") as run:
        run.log_metrics({"number": number})


@tracked_pipeline
@dsl.pipeline(name="by-hand")
def by_hand_run(number: int = 1) -> None:
    by_hand(number=number)
