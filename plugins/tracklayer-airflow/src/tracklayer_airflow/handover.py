"""Giving a stage run's token to whatever comes next: as XCom, and in the extra of every asset event."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tracklayer_airflow.supervisor import tell
from tracklayer_airflow.upstream import TOKEN_XCOM

if TYPE_CHECKING:
    from collections.abc import Mapping


def push(task: Mapping[str, Any], token: str) -> None:
    """Push the token as XCom of the task that runs in Airflow's task context `task`.

    Early, because later tasks may start before this one ends, and because Airflow clears the XComs of a try when
    the next one starts. At the end of the task where Airflow cannot be told now.
    """
    tell(task["ti"], partial(task["ti"].xcom_push, key=TOKEN_XCOM, value=token))


def fill_outlets(task: Mapping[str, Any], token: str) -> None:
    """Put the token into the extra of the event of every outlet, also of assets that were added to an alias.

    Has to happen while the task runs; doing it again at its end repairs what user code has overwritten.
    """
    tell(task["ti"], partial(_fill, task, token))  # an outlet that is named by a reference is looked up in Airflow


def _fill(task: Mapping[str, Any], token: str) -> None:
    from airflow.sdk import Asset, AssetAlias
    from airflow.sdk.definitions.asset import AssetRef

    events = task["outlet_events"]
    for outlet in task["ti"].task.outlets or ():
        if isinstance(outlet, (Asset, AssetRef)):
            events[outlet].extra[TOKEN_XCOM] = token
        elif isinstance(outlet, AssetAlias):
            for event in events[outlet].asset_alias_events:
                event.extra[TOKEN_XCOM] = token
