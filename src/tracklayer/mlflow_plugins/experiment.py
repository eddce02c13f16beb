"""The experiment of runs and models whose experiment the user's code did not choose: the stage's."""

from __future__ import annotations

from mlflow.tracking.default_experiment.abstract_context import DefaultExperimentProvider

from tracklayer.mlflow_plugins.stages import current_stage, state_of, tracked_in


class StageExperiment(DefaultExperimentProvider):
    """Answers inside a stage. ``mlflow.set_experiment`` and the EXPERIMENT variables are asked by MLflow before it."""

    def in_context(self) -> bool:
        """True inside a stage that is tracked where MLflow's calls go."""
        stage = current_stage()
        if stage is None:
            return False
        from mlflow import get_tracking_uri

        return tracked_in(stage, get_tracking_uri())

    def get_experiment_id(self) -> str | None:
        """The experiment that the user set in this stage, else that of the stage.

        MLflow loses what the user set where two processes create the experiment at once: the loser of that race
        comes here, and would log to Default in plain MLflow.
        """
        stage = current_stage()
        if stage is None:
            return None
        return state_of(stage).experiment_id or stage.experiment_id
