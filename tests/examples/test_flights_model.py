from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pandas as pd
import pytest

from flights_model.dataset import Dataset, describe, digest, read_dataset, write_dataset
from flights_model.evaluation import PLOTS, baseline, compare, evaluate
from flights_model.preparation import FEATURES, TARGET, Prepared, add_features, join, prepare, split
from flights_model.sources import FLIGHTS, Sources, read_sources
from flights_model.training import Trained, TrainingSettings, fit, train

if TYPE_CHECKING:
    from collections.abc import Iterator

# Storing a model by skops looks at all that is imported: of Airflow, too, where its tests came before in this process.
pytestmark = pytest.mark.filterwarnings("ignore:The `airflow")

SAMPLE = 6_000


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("flights"), sample=SAMPLE)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An experiment in a SQLite file, as a user has it who never heard of a server."""
    folder = tmp_path_factory.mktemp("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.create_experiment("flights", artifact_location=(folder / "artifacts").as_uri())
    yield experiment
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # MLflow takes it for "none"


@pytest.fixture(scope="module")
def trained(prepared: Prepared, tracked: str) -> Trained:
    with mlflow.start_run(experiment_id=tracked):
        return train(prepared.train.path, TrainingSettings(max_iter=12, min_samples_leaf=20))


def flight(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "year": 2013, "month": 3, "day": 9, "sched_dep_time": 1745, "dep_delay": 0.0, "sched_arr_time": 2010,
        "arr_delay": 0.0, "carrier": "UA", "flight": 1, "tailnum": "N1", "origin": "JFK", "dest": "LAX",
        "distance": 2475, "hour": 17, "minute": 45, "time_hour": "2013-03-09T22:00:00Z",
    }  # fmt: skip
    return row | changes


def hour_of_weather(**changes: object) -> dict[str, object]:
    numbers = {"humid": 50.0, "wind_dir": 0.0, "wind_speed": 5.0, "wind_gust": 9.0, "precip": 0.0, "visib": 10.0}
    return {"origin": "JFK", "time_hour": "2013-03-09T21:00:00Z", **numbers, **changes}


def small_sources(*flights: dict[str, object]) -> Sources:
    return Sources(
        flights=pd.DataFrame(flights),
        weather=pd.DataFrame([hour_of_weather(), hour_of_weather(time_hour="2013-03-09T22:00:00Z", visib=0.25)]),
        planes=pd.DataFrame([{"tailnum": "N1", "year": 1999.0, "seats": 180}]),
    )


def test_importing_the_package_costs_nothing_heavy() -> None:
    code = "import flights_model, sys; print(sorted({'pandas', 'numpy', 'sklearn', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_all_flights_are_there_and_a_sample_is_the_same_every_time() -> None:
    assert len(read_sources().flights) == FLIGHTS
    first, again = read_sources(500).flights, read_sources(500).flights
    assert len(first) == 500
    pd.testing.assert_frame_equal(first, again)
    assert first["month"].nunique() == 12
    with pytest.raises(ValueError, match="positive"):
        read_sources(0)


def test_a_flight_gets_the_weather_of_the_hour_before_and_its_aircraft() -> None:
    joined = join(small_sources(flight(), flight(tailnum="N-unknown", origin="EWR")))
    known = joined[joined["origin"] == "JFK"].iloc[0]
    assert known["visib"] == 10.0  # not the 0.25 of its own hour, which nobody knows beforehand
    assert (known["plane_year"], known["seats"]) == (1999.0, 180.0)
    other = joined[joined["origin"] == "EWR"].iloc[0]
    assert np.isnan(other["visib"])
    assert np.isnan(other["seats"])


def test_features_and_target() -> None:
    early = flight(flight=2, dep_delay=500.0, arr_delay=490.0, hour=15, minute=0, time_hour="2013-03-09T20:00:00Z")
    cancelled = flight(flight=3, dep_delay=np.nan, arr_delay=np.nan)
    punctual = flight(flight=4, arr_delay=15.0, sched_dep_time=2330, sched_arr_time=215)
    frame = add_features(join(small_sources(early, flight(arr_delay=16.0), cancelled, punctual)))
    assert list(frame.columns) == ["time_hour", *FEATURES, TARGET]
    assert list(frame[TARGET]) == [1, 1, 0]  # the cancelled one is gone; 15 minutes are not late
    first, late, last = (frame.iloc[index] for index in range(3))
    assert np.isnan(first["recent_delay"])
    assert late["recent_delay"] == 60.0  # two hours before: 500 minutes late, of which one hour was to be seen
    assert late["flights_in_hour"] == 3  # the cancelled one counts: it was scheduled
    assert (late["departure"], late["arrival"], late["scheduled_minutes"]) == (17 * 60 + 45, 20 * 60 + 10, 145)
    assert last["scheduled_minutes"] == 165  # past midnight
    assert late["weekday"] == 5  # a Saturday
    assert late["plane_age"] == 14


def test_the_split_is_by_time_at_new_yorks_midnight() -> None:
    last_of_october = flight(time_hour="2013-11-01T03:00:00Z", month=10, day=31)  # 23:00 in New York
    first_of_november = flight(time_hour="2013-11-01T04:00:00Z", month=11, day=1)
    frame = add_features(join(small_sources(first_of_november, last_of_october)))
    training, test = split(frame, "2013-11-01")
    assert (len(training), len(test)) == (1, 1)
    assert training["time_hour"].iloc[0] < test["time_hour"].iloc[0]
    with pytest.raises(ValueError, match="no flights on one side of 2014-01-01"):
        split(frame, "2014-01-01")


def test_prepare_writes_what_it_says(prepared: Prepared) -> None:
    training, test = read_dataset(prepared.train.path), read_dataset(prepared.test.path)
    assert prepared.rows_read == SAMPLE
    assert prepared.train.rows + prepared.test.rows + prepared.rows_dropped == SAMPLE
    assert (len(training), len(test)) == (prepared.train.rows, prepared.test.rows)
    assert training["time_hour"].max() < test["time_hour"].min()
    assert describe("flights-train", prepared.train.path) == prepared.train
    assert prepared.train.uri == f"file://{prepared.train.path}"
    assert prepared.train.schema["carrier"] == "str"
    assert prepared.metrics()["rows_test"] == len(test)
    assert prepared.params()["flights"] == f"about {SAMPLE}"


def test_results_cross_a_boundary_as_json(prepared: Prepared) -> None:
    received = json.loads(json.dumps(asdict(prepared)))
    assert Dataset(**received["train"]) == prepared.train


def test_preparing_again_gives_the_same_digests_and_other_flights_others(prepared: Prepared, tmp_path: Path) -> None:
    again = prepare(tmp_path / "again", sample=SAMPLE)
    assert (again.train.digest, again.test.digest) == (prepared.train.digest, prepared.test.digest)
    other = prepare(tmp_path / "other", sample=SAMPLE - 1)
    assert other.train.digest != prepared.train.digest
    assert len(prepared.train.digest) <= 36  # MLflow's limit


def test_the_digest_depends_on_names_types_values_and_order_and_survives_the_disk(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert write_dataset(frame, "t", tmp_path / "t.parquet").digest == digest(frame)
    different = (
        frame.rename(columns={"a": "c"}),
        frame.astype({"a": "float64"}),
        frame.assign(a=[1, 3]),
        frame.iloc[::-1],
    )
    digests = {digest(frame), *(digest(changed) for changed in different)}
    assert len(digests) == 5


def test_the_fit_improves_and_the_same_seed_gives_the_same_model(prepared: Prepared) -> None:
    frame = read_dataset(prepared.train.path)
    settings = TrainingSettings(max_iter=8, min_samples_leaf=20)
    first, again = fit(frame, settings), fit(frame, settings)
    assert len(first.train_loss) == len(first.validation_loss) == 9
    assert first.train_loss[-1] < first.train_loss[0]
    assert first.validation_loss[-1] < first.validation_loss[0]
    np.testing.assert_array_equal(first.model.predict_proba(frame), again.model.predict_proba(frame))


def test_training_logs_params_curves_and_a_model_with_a_signature(trained: Trained, prepared: Prepared) -> None:
    client = mlflow.MlflowClient()
    run = client.get_run(trained.run_id)
    assert run.data.params["max_iter"] == "12"
    assert run.data.params["train_rows"] == str(prepared.train.rows)
    curve = client.get_metric_history(trained.run_id, "validation_loss")
    assert [point.step for point in curve] == list(range(trained.iterations + 1))
    assert curve[-1].value == pytest.approx(trained.metrics["validation_loss"])
    model = mlflow.get_logged_model(trained.model_id)
    assert model.source_run_id == trained.run_id
    signature = mlflow.models.get_model_info(trained.model_uri).signature
    assert signature.inputs.input_names() == list(FEATURES)


def test_the_logged_model_predicts_probabilities_as_a_service_would(trained: Trained, prepared: Prepared) -> None:
    flights = read_dataset(prepared.test.path)[list(FEATURES)].head(4)
    flights.loc[flights.index[0], "dest"] = "XXX"  # an airport that it has never seen
    probabilities = mlflow.pyfunc.load_model(trained.model_uri).predict(flights)
    assert probabilities.shape == (4, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


def test_evaluation_logs_metrics_and_plots_and_marks_the_model(
    trained: Trained, prepared: Prepared, tracked: str
) -> None:
    with mlflow.start_run(experiment_id=tracked) as run:
        evaluation = evaluate(trained.model_uri, prepared.test.path, prepared.train.path)
    client = mlflow.MlflowClient()
    assert client.get_run(run.info.run_id).data.metrics == pytest.approx(evaluation.metrics)
    assert evaluation.rows == prepared.test.rows
    for plot in PLOTS:
        image = Path(client.download_artifacts(run.info.run_id, plot)).read_bytes()
        assert image.startswith(b"\x89PNG\r\n\x1a\n")
    measured = {metric.key: metric.value for metric in mlflow.get_logged_model(trained.model_id).metrics or ()}
    assert measured["roc_auc"] == pytest.approx(evaluation.metrics["roc_auc"])


def test_the_model_beats_the_baseline_on_flights_to_come(prepared: Prepared) -> None:
    training, test = read_dataset(prepared.train.path), read_dataset(prepared.test.path)
    model = fit(training, TrainingSettings(max_iter=40, min_samples_leaf=60)).model
    metrics = compare(
        test[TARGET].to_numpy(), model.predict_proba(test[list(FEATURES)])[:, 1], baseline(training, test)
    )
    assert metrics["roc_auc"] > 0.6
    assert metrics["roc_auc_gain"] > 0.02
    assert metrics["log_loss_gain"] > 0


def test_gains_are_positive_where_the_model_is_better() -> None:
    late = np.array([0, 0, 1, 1])
    metrics = compare(late, np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.6, 0.4, 0.5, 0.4]))
    assert all(metrics[f"{name}_gain"] > 0 for name in ("roc_auc", "log_loss", "brier", "accuracy"))
    assert metrics["roc_auc"] == 1.0


def test_the_baseline_falls_back_on_the_share_of_all_flights() -> None:
    training = pd.DataFrame({"carrier": ["UA", "UA", "AA"], "departure": [60.0, 70.0, 60.0], TARGET: [1, 0, 0]})
    test = pd.DataFrame({"carrier": ["UA", "B6"], "departure": [65.0, 65.0]})
    np.testing.assert_allclose(baseline(training, test), [0.5, 1 / 3])
