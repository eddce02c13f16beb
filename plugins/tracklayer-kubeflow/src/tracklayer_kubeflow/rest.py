"""What the executor's processes logged and did not deliver: taken over when they have ended, and what then is left.

The supervisor outlives the executor, but nothing outlives a pod whose disk goes away with it. There the rest leaves as
the setting ``carry`` says, or as an output artifact, which KFP stores with the task's others.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tracklayer.settings import Settings
    from tracklayer.stage import StageRun
    from tracklayer_kubeflow.execution import Execution

log = logging.getLogger("tracklayer")

OUTPUT: Final = "tracklayer_journal"
"""An output artifact of this name is the place for what could not be delivered."""

_MOUNTS: Final = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/", "oci://": "/oci/"}
"""Where KFP's executor finds the local copy of what has such a URI."""


def take_over(run: StageRun, *, since: int) -> None:
    """Deliver what the processes below this one logged and left in their journals.

    Args:
        run: the stage run.
        since: when the executor was started, in milliseconds since the epoch.
    """
    recorder = run.recorder
    if recorder is None or recorder.away:
        return
    from tracklayer.exceptions import StoreUnavailable
    from tracklayer.journal.inheritance import inherit

    linger = run.settings.linger
    with contextlib.suppress(StoreUnavailable):
        recorder.ask(lambda: inherit(recorder.backend, run.settings, since=since, limit=linger), limit=linger)


def leave(run: StageRun, settings: Settings, execution: Execution, *, since: int) -> None:
    """Deliver what is left, for a moment; let go of the journal, and see to it that the rest does not go with the disk.

    Args:
        run: the stage run, ended.
        settings: core's settings.
        execution: where outputs go.
        since: when the executor was started, in milliseconds since the epoch.
    """
    from tracklayer.journal.recorders import close_recorders

    if run.recorder is None:
        return
    target = settings.carry or place_of(execution)
    close_recorders(carry=target)
    if target is None:
        return
    from tracklayer.exceptions import StoreError
    from tracklayer.journal.inheritance import carry_away

    try:
        carried = carry_away(settings, target, since=since)
    except StoreError as error:
        log.warning("tracking: what could not be delivered stays on this disk: %s", error)
        return
    if carried:
        log.warning("tracking: what could not be delivered is in %s: `tracklayer flush --from` delivers it", target)


def place_of(execution: Execution) -> str | None:
    """Local path of the output artifact for what could not be delivered; None if the component has none."""
    uri = next((artifact.uri for artifact in execution.outputs if artifact.name == OUTPUT and artifact.uri), None)
    if uri is None:
        return None
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme)
    return uri if uri.startswith("/") else str(Path(uri).absolute())
