"""The experiment of runs and models whose experiment the user's code did not choose: the stage's."""

from __future__ import annotations

from mlflow.tracking.default_experiment.abstract_context import DefaultExperimentProvider

from tracklayer.mlflow_plugins import callers
from tracklayer.mlflow_plugins.observing import awaiting, prospective_state
from tracklayer.mlflow_plugins.stages import current_stage, state_of, tracked_in
from tracklayer.provisional import PENDING


class StageExperiment(DefaultExperimentProvider):
    """Answers inside a stage. ``mlflow.set_experiment`` and the EXPERIMENT variables are asked by MLflow before it."""

    def in_context(self) -> bool:
        """True inside a stage that is tracked where MLflow's calls go, and where the first run of an observed task starts."""
        stage = current_stage()
        if stage is None:
            return _starts_observed()
        from mlflow import get_tracking_uri

        return tracked_in(stage, get_tracking_uri())

    def get_experiment_id(self) -> str | None:
        """The experiment that the user set in this stage, else that of the stage; `PENDING` for one that is still to open.

        MLflow loses what the user set where two processes create the experiment at once: the loser of that race
        comes here, and would log to Default in plain MLflow.
        """
        stage = current_stage()
        if stage is None:
            return _of_observed() if _starts_observed() else None
        return state_of(stage).experiment_id or stage.experiment_id


def _of_observed() -> str:
    """What the code of an observed task has set before its first run, which may have lost that race, too."""
    from mlflow import get_tracking_uri

    state = prospective_state(get_tracking_uri())
    return (state.experiment_id if state is not None else None) or PENDING


def _starts_observed() -> bool:
    """True inside a ``mlflow.start_run`` whose run will be the stage run of an observed task.

    What else asks for an experiment before that (a search, a trace) is left to MLflow.
    """
    if callers.start_run() is None:
        return False
    from mlflow import get_tracking_uri
    from mlflow.tracking._tracking_service.utils import _get_store

    store: object = _get_store()  # type: ignore[no-untyped-call]
    return awaiting(get_tracking_uri()) is not None and hasattr(store, "tracklayer_uri")
