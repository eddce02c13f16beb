"""Where MLflow's plugin points meet a task that is observed: its code's first run becomes its stage run.

Until then everything is plain MLflow, with one exception: experiments that the code sets are looked up as in a stage,
so that a server that is away is no reason for the task to wait for minutes and fail.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tracklayer.identity import PARENT_TAG
from tracklayer.mlflow_plugins import callers
from tracklayer.mlflow_plugins.stages import StageState, state_of, tracked_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.observation import Observation

RUN_NAME_TAG: Final = "mlflow.runName"


def awaiting(tracking_uri: str) -> Observation | None:
    """The observed task whose stage run is the next run that is created here; None where there is none.

    Nothing is imported to find that out.

    Args:
        tracking_uri: where the run would be created; it has to be where the task is tracked.
    """
    module = sys.modules.get("tracklayer.observation")
    observation: Observation | None = module.current_observation() if module is not None else None
    if observation is None or not observation.awaits:
        return None
    prospect = observation.prospect()
    return observation if prospect is not None and tracked_in(prospect, tracking_uri) else None


def prospective_state(tracking_uri: str) -> StageState | None:
    """What calls that choose an experiment need to know of the stage that is not open yet; None where none is to come."""
    observation = awaiting(tracking_uri)
    return _prospective_state(observation) if observation is not None else None


@lru_cache(maxsize=1)
def _prospective_state(observation: Observation) -> StageState | None:
    prospect = observation.prospect()
    return StageState(prospect, "") if prospect is not None else None


def open_observed(
    observation: Observation, *, experiment: str | None, run_name: str | None, start_time: int, tags: Mapping[str, str]
) -> StageState | None:
    """Open the stage run of an observed task, because its code creates a run.

    Args:
        observation: the task.
        experiment: name of the experiment that the code chose; None if it chose none.
        run_name: the name that it gave; None if it gave none.
        start_time: milliseconds since the epoch.
        tags: all that MLflow was about to create the run with.

    Returns:
        The state of the stage, in which one run has been adopted; None if it was not opened.
    """
    chosen = _prospective_state(observation)
    stage = observation.open(
        experiment=experiment,
        run_name=run_name,
        started_at=datetime.fromtimestamp(start_time / 1_000, UTC) if start_time else None,
        tags={name: tags[name] for name in tags.keys() - users_tags(tags) if name != PARENT_TAG},
    )
    if stage is None:
        return None
    state = state_of(stage)
    state.observed = state.adopted = True
    state.experiment_id = chosen.experiment_id if chosen is not None else None
    return state


def users_tags(tags: Mapping[str, str]) -> frozenset[str]:
    """Names of those tags that the code gave, name and description among them; MLflow adds the others by itself."""
    call = callers.start_run()
    if call is None:  # a client's: MLflow adds none
        return frozenset(tags)
    return call.tags | ({RUN_NAME_TAG} if call.name else set())
