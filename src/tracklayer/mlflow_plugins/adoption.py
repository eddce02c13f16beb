"""What becomes of a run that is created inside a stage: the stage run itself, or a run below it.

- What MLflow starts by itself, because something is logged while no run is active, is the stage run.
- The first ``mlflow.start_run()`` is the stage run; each later one is a run below it, so that a loop of them keeps the
  params of its rounds apart.
- ``nested=True``, a parent of the user's own, and runs created by ``MlflowClient`` are runs below it.
- Where the user chose another experiment than the stage's, by ``set_experiment`` inside the stage or by argument, the
  run is created there, below the stage run by its tag. (What was set before the stage began was not meant for it.)
- In a process that was forked inside the stage, ``mlflow.start_run()`` is a run below it, however often it is forked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracklayer.identity import PARENT_TAG
from tracklayer.mlflow_plugins import callers
from tracklayer.mlflow_plugins.stages import child_tags, is_home, other_ids
from tracklayer.provisional import PENDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.mlflow_plugins.stages import StageState

ADOPTED_TAG: Final = "mlflow.tracklayer.adopted"
"""Set on a stage run by the process that took it for its ``mlflow.start_run()``, where several can be attached to it."""

RUN_NAME_TAG: Final = "mlflow.runName"


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """How a run is created inside a stage.

    Attributes:
        adopt: True if it is the stage run.
        claim: True if it is that only for the process that sets `ADOPTED_TAG` first.
        experiment_id: where it is created if it is a run below the stage; `PENDING` for that of the stage, which is
            not known yet.
        tags: what is added to its tags then.
        users: names of the tags (name and description among them) that the user gave, to be set on the stage run.
    """

    adopt: bool
    claim: bool
    experiment_id: str
    tags: Mapping[str, str]
    users: frozenset[str]


def creation(state: StageState, experiment_id: str, tags: Mapping[str, str]) -> Creation:
    """Decide how a run is created; called from within the store's ``create_run``.

    Args:
        state: of the stage.
        experiment_id: the experiment that MLflow asks for.
        tags: the tags that MLflow asks for, those of `StageRunContext` included.
    """
    stage, call = state.stage, callers.start_run()
    chosen = call is None or call.experiment_given or experiment_id == state.experiment_id
    home = is_home(stage, experiment_id) or not chosen
    adopt = (
        call is not None
        and not call.has_parent
        and tags.get(PARENT_TAG) in {None, stage.run_id, *other_ids(stage)}
        and home
        and (call.implicit or (not call.nested and _is_first(state)))
    )
    if adopt:
        state.adopted = True
    name = {RUN_NAME_TAG} if call is not None and call.name else set()
    return Creation(
        adopt=adopt,
        claim=adopt and call is not None and not call.implicit and state.attached,
        experiment_id=stage.experiment_id or PENDING if home else experiment_id,
        tags={name: value for name, value in child_tags(stage).items() if name not in tags},
        users=frozenset(name | call.tags) if call is not None else frozenset(),
    )


def _is_first(state: StageState) -> bool:
    """True for the first call in the process that opened the stage."""
    first = state.is_first() and not state.adopted and not state.forked
    state.adopted = True
    return first
