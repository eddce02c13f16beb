"""What carries runs from one place of Prefect to the next: labels of the flow run, and tokens in parameters.

Labels were found to reach everywhere: they are serialized to process, Dask and Ray workers with the flow run, and
hooks, retries and other flows read them from the Prefect server.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from tracklayer.exceptions import TokenError
from tracklayer.identity import parse_token

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prefect.client.schemas.objects import FlowRun

    from tracklayer.context import Token

log = logging.getLogger("tracklayer")

PARENT_LABEL: Final = "tracklayer.parent"
"""Flow-run label with the token of the flow run's own run in MLflow."""

TOKEN_LABEL: Final = "tracklayer.token"  # noqa: S105 - a name
"""Flow-run label with the tokens of the runs that feed this flow run, separated by spaces."""

STATUS_LABEL: Final = "tracklayer.status"
"""Label on this process's copy of the flow run only: the status with which the run in MLflow was ended here."""

TOKEN_PARAMETER: Final = "tracklayer_token"  # noqa: S105 - a name
"""A flow parameter of this name holds a token; whoever triggers the flow sets it."""

TOKENS: Final = 16
"""At most so many tokens are read from one label or parameter."""


def token() -> str | None:
    """The token of the run in which this code runs, to hand to whatever it triggers.

    In a tracked task it names the task's run, in a tracked flow's body the flow's run. The other side takes it as the
    flow parameter ``tracklayer_token``, as ``dag_run.conf``, as a pipeline parameter, or from the environment
    variable ``TRACKLAYER_PARENT``.

    Returns:
        None outside of a tracked run, while the tracking server cannot be reached, or when tracking is off.

    Example:
        ::

            run_deployment("flights-evaluate/nightly", parameters={"tracklayer_token": token()})
    """
    from tracklayer.current import current_run

    run = current_run()
    return run.token if run is not None else None


def parent_of(flow_run: FlowRun) -> Token | None:
    """The run in MLflow that stands for the flow run, as its labels say; None if they do not."""
    found = read_tokens(flow_run.labels.get(PARENT_LABEL), "a flow-run label")
    return found[0] if found else None


def tokens_of(flow_run: FlowRun, parameters: Mapping[str, Any] | None) -> tuple[Token, ...]:
    """The tokens that reached a flow run: by its parameter ``tracklayer_token``, then by its label."""
    given = read_tokens((parameters or {}).get(TOKEN_PARAMETER), f"the flow parameter {TOKEN_PARAMETER}")
    labelled = read_tokens(flow_run.labels.get(TOKEN_LABEL), "a flow-run label")
    return once([*given, *labelled])


def read_tokens(text: object, where: str) -> tuple[Token, ...]:
    """The tokens in a text, separated by white space; what is none is passed over with a warning.

    Args:
        text: anything; what is not a text holds no token.
        where: where it was found, for the warning.
    """
    tokens = []
    for part in text.split()[:TOKENS] if isinstance(text, str) else ():
        try:
            tokens.append(parse_token(part))
        except TokenError as error:
            log.warning("the token in %s is ignored: %s", where, error)
    return tuple(tokens)


def once(tokens: Iterable[Token]) -> tuple[Token, ...]:
    """Each run's token once, the first of it."""
    found: dict[str, Token] = {}
    for token in tokens:
        found.setdefault(token.run.run_id, token)
    return tuple(found.values())
