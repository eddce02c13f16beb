# mypy: disable-error-code="no-untyped-call"
"""What is read inside a stage: it sees what was logged before, and does not wait long for a server that is away."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList

from tracklayer.mlflow_plugins.entities import metric, whole_run
from tracklayer.mlflow_plugins.experiment_calls import REFUSED, ExperimentCalls
from tracklayer.mlflow_plugins.stages import guard
from tracklayer.mlflow_plugins.store_calls import NOT_THERE
from tracklayer.provisional import BY_NAME, PENDING, is_provisional
from tracklayer.store.calling import is_own_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow.entities import Run

    from tracklayer.journal.operations import Point
    from tracklayer.mlflow_plugins.known_runs import KnownRun
    from tracklayer.mlflow_plugins.stages import StageState

CLIENT: Final = "mlflow.tracking._tracking_service.client"

TRACE_RUN: Final = "mlflow.sourceRun"

KNOWN_WITHOUT_ASKING: Final = frozenset({"_log_url", "_get_artifact_repo"})
"""MLflow's functions that ask for a run only to learn its name, its experiment or the place of its artifacts."""


class ReadCalls(ExperimentCalls):
    """Stands before a stock store's class, of which the rest is."""

    def get_run(self, run_id: str) -> Run:
        """The run; while the server is away, as this process knows it."""
        run = self._run_here(run_id)
        if run is None:
            told: Run = self._stock.get_run(self._server_id(None, run_id))
            return told
        if run.own and (run.recorder.away or _knows_enough()):
            return whole_run(run, lambda: self._place(run))
        try:
            told = self._read(run.state, lambda: self._stock.get_run(self._now(run)))
        except MlflowException as error:
            if error.error_code in REFUSED and not self._is_pending(run):
                raise
            return self._as_known(run, error)
        _adjust(self, run)
        return told

    def run_of_stage(self, state: StageState) -> Run:
        """MLflow's entity of a stage's own run, without asking for it."""
        run = self._run_here(state.run_id)
        if run is None:
            told: Run = self._stock.get_run(state.run_id)
            return told
        return whole_run(run, lambda: self._place(run))

    def _search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str | None,
        run_view_type: Any,
        max_results: int,
        order_by: Any,
        page_token: str | None,
    ) -> Any:
        """Search runs. Provisional ids in the filter are those of the runs that were given out by them."""
        state = self._stage()

        def search() -> Any:
            ids = [self._experiment_id(state, experiment_id) for experiment_id in experiment_ids]
            told = self._told(filter_string, state)
            return self._stock._search_runs(ids, told, run_view_type, max_results, order_by, page_token)  # noqa: SLF001

        return self._read(state, search)

    def get_metric_history(self, run_id: str, metric_key: str, *arguments: Any, **keywords: Any) -> Any:
        """All points of a metric; while the server is away, those that this process logged on a run of its own."""
        run = self._perhaps_here(run_id)
        if run is None:
            return self._stock.get_metric_history(self._server_id(None, run_id), metric_key, *arguments, **keywords)
        if run.own and run.recorder.away and run.points is not None:
            return _history(run, metric_key)
        try:
            return self._read(
                run.state, lambda: self._stock.get_metric_history(self._now(run), metric_key, *arguments, **keywords)
            )
        except MlflowException as error:
            if error.error_code in REFUSED and not self._is_pending(run):
                raise
            if not run.own or run.points is None:
                raise
            return _history(run, metric_key)

    def get_metric_history_bulk_interval(self, run_ids: Sequence[str], *arguments: Any, **keywords: Any) -> Any:
        """Points of a metric of several runs."""
        state = self._stage()
        return self._read(
            state,
            lambda: self._stock.get_metric_history_bulk_interval(
                [self._server_id(state, run_id) for run_id in run_ids], *arguments, **keywords
            ),
        )

    def start_trace(self, trace_info: Any) -> Any:
        """Store a trace, with the server's ids of its experiment and of the run to which it belongs."""
        place = getattr(trace_info.trace_location, "mlflow_experiment", None)
        if place is not None:
            place.experiment_id = self._experiment_of_trace(place.experiment_id)
        with guard("finding the run of a trace"):
            run_id = trace_info.trace_metadata.get(TRACE_RUN)
            if run_id and is_provisional(run_id):
                state = self._stage()
                self._flushed(state)
                trace_info.trace_metadata[TRACE_RUN] = self._server_id(state, run_id)
        return self._stock.start_trace(trace_info)

    def log_spans(self, location: str, *arguments: Any, **keywords: Any) -> Any:
        """Store spans in an experiment, by the server's id of that."""
        return self._stock.log_spans(self._experiment_of_trace(location), *arguments, **keywords)

    def link_traces_to_run(self, trace_ids: Any, run_id: str) -> None:
        """Link traces to a run."""
        run = self._perhaps_here(run_id)
        if run is None:
            self._stock.link_traces_to_run(trace_ids, self._server_id(None, run_id))
        else:
            self._read(run.state, lambda: self._stock.link_traces_to_run(trace_ids, self._now(run)))

    # ------------------------------------------------------------------------------------------------ how it is done

    def _experiment_of_trace(self, experiment_id: Any) -> Any:
        """The server's id of an experiment that was chosen while the server was away; asked for as traces are sent: for long.

        Raises:
            MlflowException: the server is away still.
        """
        if is_own_call() or type(experiment_id) is not str:
            return experiment_id
        if experiment_id == PENDING:
            return self._experiment_id(self._stage(), experiment_id)
        try:
            return self._experiment_id(None, experiment_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self._experiment_id(None, experiment_id)  # somebody else was faster with creating it

    def _perhaps_here(self, run_id: str) -> KnownRun | None:
        """As `_run_here`, for calls that MLflow answers although there is no such run: that is the stock store's business."""
        try:
            return self._run_here(run_id)
        except MlflowException as error:
            if error.error_code != NOT_THERE:
                raise
            return None

    def _is_pending(self, run: KnownRun) -> bool:
        """True for a run that the server has not got yet."""
        return is_provisional(run.server_id)

    def _as_known(self, run: KnownRun, error: MlflowException) -> Run:
        """What this process knows of a run of its own, where the server does not tell."""
        if not run.own:
            raise error
        return whole_run(run, lambda: self._place(run))


def _history(run: KnownRun, key: str) -> Any:
    """The points of a metric as MLflow tells them: each once, in the order of their times, steps and values."""
    points = {_place(point): point for point in (run.points or {}).get(key, [])}
    return PagedList([metric(points[place]) for place in sorted(points)], None)


def _place(point: Point) -> tuple[int, int, float, bool]:
    """What MLflow tells a point of a metric from others by; it stores what is no number as a 0."""
    none = math.isnan(point.value)
    return point.timestamp, point.step, 0.0 if none else point.value, none


def _knows_enough() -> bool:
    """True where MLflow asks for a run whose name and place are all that it wants to know."""
    frame = sys._getframe(2)  # noqa: SLF001 - inspect.stack reads source files, which takes ms
    for _ in range(2):
        if frame.f_code.co_name in KNOWN_WITHOUT_ASKING and frame.f_globals.get("__name__") == CLIENT:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


def _adjust(calls: ExperimentCalls, run: KnownRun) -> None:
    """Have MLflow call an experiment by the server's id that was chosen by name while the server was away."""
    chosen = run.state.experiment_id
    if chosen is not None and chosen.startswith(BY_NAME):
        calls._experiment_id(run.state, chosen)  # noqa: SLF001 - of the same making
