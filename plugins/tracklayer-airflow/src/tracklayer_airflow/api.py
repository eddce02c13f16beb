"""Airflow's public REST API, as far as reconciling asks it: what has become of DAG runs and of tries of tasks.

Spoken to from anywhere, long after: Airflow itself is not imported.
"""

from __future__ import annotations

import os
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from tracklayer.exceptions import SettingsError
from tracklayer.forking import ProcessLock
from tracklayer.json_text import decoded
from tracklayer.store.endpoint import without_credentials

if TYPE_CHECKING:
    from tracklayer_airflow.settings import AirflowSettings

URL_VARIABLE: Final = "AIRFLOW__API__BASE_URL"
"""Airflow's own variable for the address of its pages and API."""

PAUSE: Final = 30.0
"""Seconds for which an Airflow that could not be reached is not asked again."""


ROUTER: Final = "Not Found"
"""The whole of what is said about a path that the API does not have, by Airflow's router and by that of other services."""

_TOKEN = re.compile(r"[\x21-\x7e]+")


class AirflowUnavailable(Exception):
    """Airflow cannot be asked: it is away, refuses the credentials, or is no Airflow."""


class Api:
    """One Airflow's API. Safe to use from several threads."""

    def __init__(self, url: str, settings: AirflowSettings) -> None:
        """Ask nothing yet.

        Args:
            url: its address, without credentials, see `address`: it is shown in messages.
            settings: how it is asked.

        Raises:
            SettingsError: the token cannot be one.
        """
        import urllib3

        self.url = url.rstrip("/")
        self._settings = settings
        self._told_token = _token(settings.api_token)
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
        return self._get("dags", dag_id, "dagRuns", run_id, of={"dag_id": dag_id, "dag_run_id": run_id})

    def has_dag(self, dag_id: str) -> bool:
        """Whether this Airflow knows the DAG, active or not.

        Raises:
            AirflowUnavailable: it cannot be asked.
        """
        return self._get("dags", dag_id, of={"dag_id": dag_id}) is not None

    def task_try(self, dag_id: str, run_id: str, task_id: str, map_index: int, number: int) -> dict[str, Any] | None:
        """One try of a task; None if there is none.

        Raises:
            AirflowUnavailable: it cannot be asked.
        """
        of_task = ("taskInstances", task_id, str(map_index), "tries", str(number))
        of = {"dag_id": dag_id, "dag_run_id": run_id, "task_id": task_id}
        return self._get("dags", dag_id, "dagRuns", run_id, *of_task, of=of)

    def _get(self, *parts: str, of: dict[str, str]) -> dict[str, Any] | None:
        """What the API has at a path; None if it says that there is none.

        Args:
            parts: the path.
            of: fields by which the answer shows that it is about what was asked.
        """
        path = "/api/v2/" + "/".join(quote(part, safe="") for part in parts)
        status, body = self._ask(path, self._bearer())
        if status == 401 and self._told_token is None:
            self._token = None
            status, body = self._ask(path, self._bearer())
        if status == 404 and _says_that_there_is_none(body, of["dag_id"]):
            return None
        about_it = isinstance(body, dict) and all(body.get(name) == value for name, value in of.items())
        if status == 404 or (status == 200 and not about_it):
            raise AirflowUnavailable(
                f"what answers at {self.url} is not Airflow's API ({status} for {path}): check that api_url is the address "
                "of Airflow's API server, without /api/v2, and that the server is up behind its ingress or proxy"
            )
        if status != 200 or not isinstance(body, dict):
            hint = ": set api_username and api_password, or api_token, in [airflow]" if status in {401, 403} else ""
            raise AirflowUnavailable(f"Airflow at {self.url} answered {status}{hint}")
        return body

    def _bearer(self) -> str | None:
        """The token: the configured one, or one that the user name and password are exchanged for."""
        settings = self._settings
        if self._told_token is not None:
            return self._told_token
        with self._lock:
            if self._token is None:
                told = None
                if settings.api_username is not None:
                    told = {"username": settings.api_username, "password": settings.api_password or ""}
                # Without credentials there is a token where everybody is an administrator; else no token, and a 401.
                status, body = self._ask("/auth/token", None, told)
                token = body.get("access_token") if isinstance(body, dict) else None
                if not (isinstance(token, str) and _TOKEN.fullmatch(token)):  # HTTP's library would show a wrong one
                    token = None
                if token is None and settings.api_username is not None:
                    raise AirflowUnavailable(
                        f"Airflow at {self.url} gives no token to {settings.api_username!r}: {status}"
                    )
                self._token = token or ""
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
    """The API of the Airflow that the settings name, or Airflow's own variable; None if nothing does.

    Raises:
        SettingsError: the address or the token is wrong; the message shows no secret.
    """
    if settings.api_url:
        return _api(address("setting 'airflow.api_url'", settings.api_url), settings)
    url = os.environ.get(URL_VARIABLE)
    return _api(address(f"the environment variable {URL_VARIABLE}", url), settings) if url else None


def can_be_asked(*ids: str) -> bool:
    """Whether the API has a path for these ids. One with a slash is two to it, however that is written.

    >>> can_be_asked("flights", "manual__1"), can_be_asked("flights", "a/b"), can_be_asked("..")
    (True, False, False)
    """
    return not any("/" in one or one in {"", ".", ".."} for one in ids)


def address(name: str, url: str) -> str:
    """The address of an API server, as it may be shown.

    Args:
        name: where it stands.
        url: as somebody set it.

    Raises:
        SettingsError: it is none; the message names it, without credentials.

    >>> address("setting 'airflow.api_url'", " https://airflow.example.com/team ")
    'https://airflow.example.com/team'
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    shown = without_credentials(url)
    if "@" in shown:  # it is so far from an address that nobody knows what is secret in it
        shown = "what it is"
    if parts.scheme not in {"http", "https"} or not parts.hostname or not url.isprintable() or " " in url:
        raise SettingsError(f"{name} must be an address like https://airflow.example.com, not {shown}")
    if "@" in parts.netloc:
        where = "write them into api_username and api_password in [airflow]"
        raise SettingsError(f"{name} ({shown}) holds credentials: {where}")
    if parts.query or parts.fragment:
        raise SettingsError(f"{name} ({shown.partition('?')[0]}) must end with its path, without ? and #")
    return url


def _token(told: str | None) -> str | None:
    """The token as it is sent. One that was read from a file often has the end of its line, too."""
    token = (told or "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise SettingsError(
            "setting 'airflow.api_token' (not shown) has a character in it that no token has, as a blank or the end of a "
            "line: it is the token alone, without the word Bearer"
        )
    return token or None


def _says_that_there_is_none(body: Any, dag_id: str) -> bool:
    """Whether the 404 with this body is Airflow's own word about the DAG, or about what is below it.

    It names the DAG then (3.1 to 3.3). What is in front of Airflow, another service, or Airflow at a path that it does not
    have answer with 404 as well, and know nothing of DAGs.
    """
    detail = body.get("detail") if isinstance(body, dict) else None
    if not isinstance(detail, str) or detail == ROUTER:
        return False
    return re.search(rf"(?<![\w.~:+-]){re.escape(dag_id)}(?![\w.~:+-])", detail) is not None


@lru_cache(maxsize=8)
def _api(url: str, settings: AirflowSettings) -> Api:
    return Api(url, settings)
