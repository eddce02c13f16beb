from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tracklayer_kubeflow.place import Place, place_of
from tracklayer_kubeflow.variables import NODE, RETRY_INDEX, RUN_ID

RUN = "0b1e0a50-2d4b-4b52-9c0f-6a2a4f0f5c11"
SALT = "7d0f9d3c-9b0e-4f3a-8a7c-1f0d2c3b4a59"


@pytest.mark.parametrize(
    "path",
    [
        f"/minio/mlpipeline/v2/artifacts/flights/{RUN}/train/{SALT}/output_metadata.json",
        f"minio://mlpipeline/v2/artifacts/flights/{RUN}/train/{SALT}/model",
        f"s3://bucket/private-artifacts/team/v2/artifacts/flights/{RUN}/train/{SALT}/model",
        f"gs://bucket/flights/{RUN}/train/{SALT}/model",
    ],
)
def test_a_cluster_by_its_paths(path: str) -> None:
    place = place_of([path], {})
    assert place == Place(pipeline="flights", run_id=RUN, task="train", salt=SALT)


def test_a_cluster_without_salt_as_older_back_ends_write_it() -> None:
    paths = ["/tmp/kfp_outputs/output_metadata.json", f"minio://mlpipeline/v2/artifacts/flights/{RUN}/train/model"]
    assert place_of(paths, {}) == Place(pipeline="flights", run_id=RUN, task="train")


def test_nothing_to_go_by() -> None:
    assert place_of(["/tmp/kfp_outputs/output_metadata.json"], {}) == Place()
    assert place_of([], {RUN_ID: RUN}).run_id == RUN


def test_the_pod_knows_its_run_iteration_and_try() -> None:
    node = "flights-x7k2p.root.for-loop-1.iteration-iterations(2:2).iteration-item.for-loop-2.iteration-iterations(0:0)"
    environ = {RUN_ID: RUN, NODE: f"{node}.iteration-item.train.executor(1)"}
    place = place_of(["/tmp/kfp_outputs/output_metadata.json"], environ)
    assert (place.run_id, place.index, place.try_number) == (RUN, "2-0", 2)


def test_retry_index_of_kfp() -> None:
    assert place_of([], {RETRY_INDEX: "0"}).try_number == 1
    assert place_of([], {RETRY_INDEX: "3"}).try_number == 4
    assert place_of([], {RETRY_INDEX: "{{retries}}"}).try_number is None
    assert place_of([], {NODE: "flights-x7k2p.root.train.executor"}).try_number is None


def test_a_local_run_by_its_paths() -> None:
    run = "my-flights-2-2026-11-21-01-39-58-120670"
    place = place_of([f"outputs/{run}/train-3/executor_output.json"], {RUN_ID: RUN, RETRY_INDEX: "4"})
    assert place.local
    assert (place.pipeline, place.run_id, place.task, place.index) == ("my-flights-2", run, "train-3", None)
    assert place.try_number is None
    assert place.started_at is not None
    assert place.started_at.replace(tzinfo=None) == datetime(2026, 11, 21, 1, 39, 58, 120670, UTC).replace(tzinfo=None)


def test_iterations_of_a_local_run() -> None:
    run = "flights-2026-11-21-01-39-58-120670"
    path = f"/out/{run}/inner/for-loop-3-iteration-12/condition-4/for-loop-5-iteration-0/use-3/executor_output.json"
    place = place_of([path], {})
    assert (place.task, place.index) == ("use-3", "12-0")
