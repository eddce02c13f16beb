"""The graph as it is read from real tracking back ends: over REST, and straight from the database."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from harness.story import SOURCE, Author, dataset, link, write_relay
from tracklayer.context import RunRef, Token
from tracklayer.exceptions import NotFound
from tracklayer.identity import UPSTREAM_TAG, format_token, upstream_tag
from tracklayer.lineage.query import find_run
from tracklayer.lineage.reading import read
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow.entities.model_registry import ModelVersion

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.lineage.graph import Graph
    from tracklayer.store import Store


@pytest.fixture
def store(mlflow_server: MlflowServer) -> Store:
    return open_store(mlflow_server.uri, connect_timeout=5, timeout=30)


@pytest.fixture
def author(store: Store) -> Author:
    return Author(store)


def links(graph: Graph) -> set[tuple[str | None, str, str | None]]:
    """Links between runs by name, with the parents' left out."""
    return {
        (graph.run(edge.source).name, edge.kind, graph.run(edge.target).name)
        for edge in graph.edges
        if edge.kind not in ("input", "output") and not graph.run(edge.target).is_workflow_run
    }


def names(graph: Graph) -> set[str | None]:
    """Names of the runs, parents left out."""
    return {run.name for run in graph.runs if not run.is_workflow_run}


def test_the_whole_relay_from_its_middle(author: Author, store: Store) -> None:
    relay = write_relay(author)

    graph = read(store, relay.train.run_id)

    assert links(graph) == {
        ("ingest", "hand-over", "prepare"),
        ("prepare", "data", "train"),
        ("train", "token", "evaluate"),
        ("evaluate", "hand-over", "report"),
    }
    train = graph.run(relay.train.run_id)
    assert (train.stage, train.orchestrator, train.workflow_run) == ("training", "kubeflow", "flights-train-x7k2p")
    assert train.experiment == train.workflow == f"flights-train-{author.mark}"
    assert (train.status, train.parent, train.key) == ("FINISHED", relay.training.run_id, relay.train.key)
    assert train.started_at is not None
    assert train.ended_at is not None
    assert (train.ended_at - train.started_at).total_seconds() == pytest.approx(12.345)
    parent = graph.run(relay.training.run_id)
    assert parent.is_workflow_run
    assert parent.group == train.group
    by_data = next(edge for edge in graph.edges if edge.kind == "data")
    assert (by_data.dataset, by_data.digest) == (f"s3://flights/{author.mark}/features", "f1d2c3b4a5968778")
    assert not graph.notices


def test_datasets_are_nodes_and_ballots_are_not(author: Author, store: Store) -> None:
    relay = write_relay(author)

    graph = read(store, relay.train.run_id)

    at = {dataset.id: dataset for dataset in graph.datasets}
    flows = {
        (at[edge.source].uri, graph.run(edge.target).name) if edge.kind == "input"
        else (graph.run(edge.source).name, at[edge.target].uri)
        for edge in graph.edges
        if edge.kind in ("input", "output")
    }  # fmt: skip
    top = f"s3://flights/{author.mark}"
    assert flows == {
        (SOURCE, "ingest"),
        ("ingest", f"{top}/raw"),
        ("prepare", f"{top}/features"),
        (f"{top}/features", "train"),
    }
    assert {dataset.digest for dataset in graph.datasets} == {None, "r1", "f1d2c3b4a5968778"}


def test_one_direction_only(author: Author, store: Store) -> None:
    relay = write_relay(author)

    assert names(read(store, relay.train.run_id, downstream=False)) == {"train", "prepare", "ingest"}
    assert names(read(store, relay.train.run_id, upstream=False)) == {"train", "evaluate", "report"}


def test_what_merely_shares_an_ancestor_is_left_out(author: Author, store: Store) -> None:
    relay = write_relay(author)
    context, _ = author.workflow_run("script", "another", "r1")
    author.stage(context, "other-training", "training", upstream=[link(relay.prepare)])

    assert "other-training" not in names(read(store, relay.evaluate.run_id))
    assert "other-training" in names(read(store, relay.prepare.run_id))


def test_a_workflow_run_is_asked_about_with_its_stages(author: Author, store: Store) -> None:
    relay = write_relay(author)

    graph = read(store, relay.evaluation.run_id)

    assert set(graph.members) == {relay.evaluate.run_id, relay.report.run_id}
    assert names(graph) == {"ingest", "prepare", "train", "evaluate", "report"}
    assert names(read(store, relay.preparation.run_id, upstream=False)) == names(graph)


def test_a_token_on_the_workflow_run_stands_for_a_stage_without_links(author: Author, store: Store) -> None:
    relay = write_relay(author)
    context, parent = author.workflow_run("script", "observed", "r1", upstream=[link(relay.train, "token")])
    lonely = author.stage(context, "lonely", "report")

    graph = read(store, lonely.run_id, downstream=False)

    assert ("observed", "nested", "lonely") in {
        (graph.run(edge.source).workflow.removesuffix(f"-{author.mark}"), edge.kind, graph.run(edge.target).name)  # type: ignore[union-attr]
        for edge in graph.edges
        if edge.kind == "nested"
    }
    assert {"train", "prepare"} <= names(graph)
    assert any(edge.target == parent.run_id and edge.kind == "token" for edge in graph.edges)


def test_a_run_that_user_code_nested_below_a_stage_leads_to_what_feeds_the_stage(author: Author, store: Store) -> None:
    relay = write_relay(author)
    trial = store.create_run(
        relay.train.experiment_id, name="trial", start_time=1, tags={"mlflow.parentRunId": relay.train.run_id}
    )

    graph = read(store, trial.run_id)

    assert ("train", "nested", "trial") in links(graph)
    assert "prepare" in names(graph)


def test_circles_end(author: Author, store: Store) -> None:
    context, _ = author.workflow_run("script", "circle", "r1")
    first = author.stage(context, "first", "a")
    second = author.stage(context, "second", "b", upstream=[link(first)])
    store.log_batch(first.run_id, tags={upstream_tag(second.run_id): "{}"})
    store.log_batch(first.run_id, tags={upstream_tag(first.run_id): "{}"})

    expected = {("first", "hand-over", "second"), ("second", "hand-over", "first")}
    assert links(read(store, first.run_id)) == expected


def test_runs_that_are_deleted_or_were_never_there(author: Author, store: Store) -> None:
    """Shown as what they are; what hangs behind a deleted one is still found."""
    context, _ = author.workflow_run("script", "trash", "r1")
    source = author.stage(context, "source", "data-prep")
    middle = author.stage(context, "middle", "data-prep", upstream=[link(source)])
    nowhere, hostile = uuid.uuid4().hex, "x' OR '1"
    last = author.stage(
        context,
        "last",
        "training",
        upstream=[link(middle), link(RunRef(run_id=nowhere, experiment_id="0"))],
        tags={f"{UPSTREAM_TAG}{hostile}".replace("'", " "): "{}"},
    )
    store.delete_run(middle.run_id)

    graph = read(store, last.run_id)

    states = {run.id: run.state for run in graph.runs}
    assert states[middle.run_id] == "deleted"
    assert states[nowhere] == "missing"
    assert states["x  OR  1"] == "missing"
    assert states[source.run_id] == "active"
    assert read(store, middle.run_id, downstream=False).run(middle.run_id).state == "deleted"


def test_a_run_in_a_deleted_experiment(mlflow_server: MlflowServer, author: Author, store: Store) -> None:
    import mlflow

    context, parent = author.workflow_run("script", "doomed", "r1")
    source = author.stage(context, "source", "data-prep")
    mlflow.MlflowClient(mlflow_server.uri).delete_experiment(parent.experiment_id)
    context, _ = author.workflow_run("script", "alive", "r1")
    last = author.stage(context, "last", "training", upstream=[link(source)])

    run = read(store, last.run_id).run(source.run_id)

    assert (run.state, run.name, run.experiment) == ("deleted", "source", f"doomed-{author.mark}")


def test_links_are_read_tolerantly(author: Author, store: Store) -> None:
    context, _ = author.workflow_run("script", "damaged", "r1")
    first = author.stage(context, "first", "a")
    for number, value in enumerate(("1", "[]", '{"kind": "magic", "dataset": 7}', "not json")):
        author.stage(context, f"user{number}", "b", tags={upstream_tag(first.run_id): value})

    graph = read(store, first.run_id)

    assert links(graph) == {("first", "hand-over", f"user{number}") for number in range(4)}


def test_depth_is_bounded_with_a_word(author: Author, store: Store) -> None:
    context, _ = author.workflow_run("script", "chain", "r1")
    chain = [author.stage(context, "s0", "a")]
    for number in range(1, 7):
        chain.append(author.stage(context, f"s{number}", "a", upstream=[link(chain[-1])]))

    graph = read(store, chain[3].run_id, depth=2)

    assert names(graph) == {"s1", "s2", "s3", "s4", "s5"}
    assert sorted(graph.notices) == [
        "stopped 2 links downstream; there is more (--depth)",
        "stopped 2 links upstream; there is more (--depth)",
    ]
    assert read(store, chain[3].run_id, depth=3).notices == ()
    assert names(read(store, chain[3].run_id, depth=0)) == {"s3"}


def test_size_is_bounded_with_a_word(author: Author, store: Store) -> None:
    context, _ = author.workflow_run("script", "fan", "r1")
    first = author.stage(context, "first", "a")
    for number in range(8):
        author.stage(context, f"user{number}", "b", upstream=[link(first)])

    graph = read(store, first.run_id, limit=5)

    assert len(graph.runs) == 5
    assert graph.notices == ("only the first 5 runs are shown; there are more (--limit)",)
    assert not read(store, first.run_id, limit=10).notices


def test_a_level_costs_one_request_however_wide_it_is(
    author: Author, recording_proxy: RecordingProxy, store: Store
) -> None:
    context, _ = author.workflow_run("script", "wide", "r1")
    sources = [author.stage(context, f"source{number}", "a") for number in range(20)]
    middle = [author.stage(context, f"m{number}", "b", upstream=[link(run) for run in sources]) for number in range(10)]
    last = author.stage(context, "last", "c", upstream=[link(run) for run in middle])
    through = open_store(recording_proxy.uri, connect_timeout=5, timeout=30)

    graph = read(through, last.run_id, downstream=False)

    assert len(graph.runs) == 32
    assert len(links(graph)) == 210
    # The run; the experiments, because MLflow searches only where it is told to; its parent; two levels.
    assert [str(request) for request in recording_proxy.requests] == [
        "GET runs/get",
        "POST experiments/search",
        *["POST runs/search"] * 3,
    ]


def test_the_same_graph_straight_from_the_database(author: Author, store: Store, mlflow_server: MlflowServer) -> None:
    relay = write_relay(author)
    library = open_store(mlflow_server.backend, connect_timeout=5, timeout=30)

    direct, served = read(library, relay.train.run_id), read(store, relay.train.run_id)

    assert set(direct.runs) == set(served.runs)
    assert set(direct.edges) == set(served.edges)
    assert set(direct.datasets) == set(served.datasets)


@pytest.fixture(params=["served", "direct"])
def either(request: pytest.FixtureRequest, store: Store, mlflow_server: MlflowServer) -> Store:
    if request.param == "served":
        return store
    return open_store(mlflow_server.backend, connect_timeout=5, timeout=30)


def test_a_run_is_found_by_every_name(author: Author, either: Store) -> None:
    relay = write_relay(author)
    train = relay.train
    assert train.key is not None

    assert find_run(either, train.run_id) == train.run_id
    assert find_run(either, train.run_id[:12]) == train.run_id
    assert find_run(either, train.key) == train.run_id
    assert find_run(either, format_token(Token(run=train))) == train.run_id
    assert relay.preparation.key is not None
    assert find_run(either, relay.preparation.key) == relay.preparation.run_id, "with a plus and colons in it"


def test_a_key_means_the_newest_live_run_and_else_one_from_the_trash(author: Author, either: Store) -> None:
    context, _ = author.workflow_run("script", "again", "r1")
    old, new = author.stage(context, "train", "training"), author.stage(context, "train", "training")
    assert old.key == new.key is not None
    assert find_run(either, new.key) == new.run_id
    either.delete_run(new.run_id)
    assert find_run(either, new.key) == old.run_id
    either.delete_run(old.run_id)
    assert find_run(either, new.key) in (old.run_id, new.run_id)
    with pytest.raises(NotFound, match="no run has the key 'airflow:default/no/such'"):
        find_run(either, "airflow:default/no/such")


def test_the_beginning_of_an_id_must_mean_one_run(store: Store) -> None:
    class Two:
        def search_runs(self, *_: object, **__: object) -> object:
            return [*store.search_runs([], "", limit=2)]

    with pytest.raises(NotFound, match=r"2 or more runs have ids that begin with 'abcdef': \w{32} \("):
        find_run(Two(), "abcdef")  # type: ignore[arg-type]


def test_a_model_means_the_run_that_trained_it(
    author: Author, either: Store, store: Store, mlflow_server: MlflowServer
) -> None:
    import mlflow

    relay = write_relay(author)
    client = mlflow.MlflowClient(mlflow_server.uri)
    name = f"flights-{author.mark}"
    client.create_registered_model(name)
    version: ModelVersion = client.create_model_version(
        name, f"{store.get_run(relay.train.run_id).artifact_uri}/model", run_id=relay.train.run_id
    )
    client.set_registered_model_alias(name, "champion", version.version)
    logged = client.create_logged_model(relay.train.experiment_id, source_run_id=relay.train.run_id)

    for model in (f"models:/{name}/1", f"models:/{name}@champion", f"models:/{logged.model_id}", logged.model_id):
        assert find_run(either, model) == relay.train.run_id
    with pytest.raises(NotFound):
        find_run(either, f"models:/{name}/99")


def test_a_run_that_is_not_there(store: Store) -> None:
    with pytest.raises(NotFound):
        read(store, uuid.uuid4().hex)


def test_pages(author: Author, store: Store) -> None:
    relay = write_relay(author)
    page: Callable[[RunRef], str] = lambda ref: f"http://mlflow/#/{ref.experiment_id}/{ref.run_id}"  # noqa: E731

    graph = read(store, relay.prepare.run_id, page=page, downstream=False)

    assert graph.run(relay.prepare.run_id).url == page(relay.prepare)


def test_a_dataset_of_user_code_is_shown_by_its_address_or_its_name(author: Author, store: Store) -> None:
    from tracklayer.store import Dataset

    context, _ = author.workflow_run("script", "datasets", "r1")
    sources = {
        "http": '{"url": "https://example.com/x.csv"}',
        "delta": '{"path": "/delta/x"}',
        "code": '{"tags": {"mlflow.source.name": "x.py"}}',
        "broken": "not json",
    }
    reads = [
        Dataset(name=f"of-{kind}", digest="d", source_type=kind, source=source, context="training")
        for kind, source in sources.items()
    ]
    run = author.stage(context, "train", "training", reads=[*reads, dataset("s3://x")])

    graph = read(store, run.run_id)

    assert {node.uri or node.name for node in graph.datasets} == {
        *("https://example.com/x.csv", "/delta/x", "of-code", "of-broken", "s3://x")
    }
