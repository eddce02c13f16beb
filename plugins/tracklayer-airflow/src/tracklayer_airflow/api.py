"""Airflow's public REST API, as far as reconciling asks it: what has become of DAG runs and of tries of tasks.

Spoken to from anywhere, long after: Airflow itself is not imported.
"""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tracklayer.forking import ProcessLock

if TYPE_CHECKING:
    from tracklayer_airflow.settings import AirflowSettings

URL_VARIABLE: Final = "AIRFLOW__API__BASE_URL"
"""Airflow's own variable for the address of its pages and API."""

PAUSE: Final = 30.0
"""Seconds for which an Airflow that could not be reached is not asked again."""


class AirflowUnavailable(Exception):
    """Airflow cannot be asked: it is away, refuses the credentials, or is no Airflow."""


class Api:
    """One Airflow's API. Safe to use from several threads."""

    def __init__(self, url: str, settings: AirflowSettings) -> None:
        import urllib3

        self.url = url.rstrip("/")
        self._settings = settings
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(settings.api_timeout),
            retries=urllib3.Retry(2, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), raise_on_status=False),
        )
        self._lock = ProcessLock()
        self._token: str | None = None
        self._away_until = 0.0

    @property
    def addresses(self) -> tuple[str, ...]:
        """By which addresses this Airflow is known: the one that is asked, and the one by which it calls itself, if told."""
        return tuple(filter(None, (self.url, os.environ.get(URL_VARIABLE))))

    def dag_run(self, dag_id: str, run_id: str) -> dict[str, Any] | None:
        """A DAG run; None if there is none of this id.

        Raises:
            AirflowUnavailable: it cannot be asked.
        """
        return self._get("dags", dag_id, "dagRuns", run_id)

    def has_dag(self, dag_id: str) -> bool:
        """Whether this Airflow knows the DAG, active or not.

        Raises:
            AirflowUnavailable: it cannot be asked.
        """
        return self._get("dags", dag_id) is not None

    def task_try(self, dag_id: str, run_id: str, task_id: str, map_index: int, number: int) -> dict[str, Any] | None:
        """One try of a task; None if there is none.

        Raises:
            AirflowUnavailable: it cannot be asked.
        """
        of_task = ("taskInstances", task_id, str(map_index), "tries", str(number))
        return self._get("dags", dag_id, "dagRuns", run_id, *of_task)

    def _get(self, *parts: str) -> dict[str, Any] | None:
        path = "/api/v2/" + "/".join(quote(part, safe="") for part in parts)
        status, body = self._ask(path, self._bearer())
        if status == 401 and self._settings.api_token is None:
            self._token = None
            status, body = self._ask(path, self._bearer())
        if status == 404:
            return None
        if status != 200 or not isinstance(body, dict):
            hint = ": set api_username and api_password, or api_token, in [airflow]" if status in {401, 403} else ""
            raise AirflowUnavailable(f"Airflow at {self.url} answered {status}{hint}")
        return body

    def _bearer(self) -> str | None:
        """The token: the configured one, or one that the user name and password are exchanged for."""
        settings = self._settings
        if settings.api_token is not None:
            return settings.api_token
        with self._lock:
            if self._token is None:
                told = None
                if settings.api_username is not None:
                    told = {"username": settings.api_username, "password": settings.api_password or ""}
                # Without credentials there is a token where everybody is an administrator; else no token, and a 401.
                status, body = self._ask("/auth/token", None, told)
                token = body.get("access_token") if isinstance(body, dict) else None
                if not isinstance(token, str) and settings.api_username is not None:
                    raise AirflowUnavailable(
                        f"Airflow at {self.url} gives no token to {settings.api_username!r}: {status}"
                    )
                self._token = token if isinstance(token, str) else ""
            return self._token or None

    def _ask(self, path: str, token: str | None, told: dict[str, str] | None = None) -> tuple[int, Any]:
        import urllib3

        if time.monotonic() < self._away_until:
            raise AirflowUnavailable(f"Airflow at {self.url} could not be reached a moment ago")
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        try:
            if told is None:
                answer = self._pool.request("GET", self.url + path, headers=headers, redirect=False)
            else:
                answer = self._pool.request("POST", self.url + path, headers=headers, json=told, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            self._away_until = time.monotonic() + PAUSE
            raise AirflowUnavailable(f"Airflow at {self.url} cannot be reached: {type(error).__name__}") from None
        try:
            return answer.status, decoded(answer.data)
        except ValueError:
            return answer.status, None


def api(settings: AirflowSettings) -> Api | None:
    """The API of the Airflow that the settings name, or Airflow's own variable; None if nothing does."""
    url = settings.api_url or os.environ.get(URL_VARIABLE)
    return _api(url, settings) if url else None


@lru_cache(maxsize=8)
def _api(url: str, settings: AirflowSettings) -> Api:
    return Api(url, settings)
