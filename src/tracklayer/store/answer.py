"""What an MLflow server's answer means: the errors of its REST API, and of whatever stands in front of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import AccessDenied, AlreadyExists, NotFound, Refused, StoreError, StoreUnavailable
from tracklayer.json_text import decoded
from tracklayer.store.endpoint import Endpoint, without_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGE_LIMIT: Final = 500
"""Characters of a server's own message that are passed on."""

GATEWAY: Final = frozenset({502, 503, 504})
"""Statuses by which a proxy or a server that is being restarted says that nobody is at home."""

_BY_CODE: Final[Mapping[str, type[StoreError]]] = {
    "RESOURCE_DOES_NOT_EXIST": NotFound,
    "NOT_FOUND": NotFound,
    "RESOURCE_ALREADY_EXISTS": AlreadyExists,
    "ALREADY_EXISTS": AlreadyExists,
    "INVALID_PARAMETER_VALUE": Refused,
    "INVALID_STATE": Refused,
    "NOT_IMPLEMENTED": Refused,
    "FEATURE_DISABLED": Refused,
    "PERMISSION_DENIED": AccessDenied,
    "UNAUTHENTICATED": AccessDenied,
    "CUSTOMER_UNAUTHORIZED": AccessDenied,
    # An exhausted connection pool or a lost race, not a bad value: asking again helps.
    "BAD_REQUEST": StoreUnavailable,
    "INTERNAL_ERROR": StoreUnavailable,
    "TEMPORARILY_UNAVAILABLE": StoreUnavailable,
    "REQUEST_LIMIT_EXCEEDED": StoreUnavailable,
    "RESOURCE_EXHAUSTED": StoreUnavailable,
    "RESOURCE_CONFLICT": StoreUnavailable,
    "ABORTED": StoreUnavailable,
    "CANCELLED": StoreUnavailable,
    "DEADLINE_EXCEEDED": StoreUnavailable,
}
_INTERNAL: Final = frozenset({"INTERNAL_ERROR", "BAD_REQUEST"})
"""What MLflow answers if something failed that it had not thought of, its database's own errors among that."""

_TAGS = re.compile(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer as it came over the wire. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server wants to be asked again; None if it does not say (or gives a date)."""
        try:
            seconds = float(self.headers.get("retry-after", ""))
        except ValueError:
            return None
        return seconds if 0 <= seconds < float("inf") else None


_CONFLICTS: Final = ("IntegrityError", "UniqueViolation")


def error_by_code(code: str, message: str) -> StoreError:
    """The error that MLflow's `code` stands for; an unknown code is a plain StoreError."""
    error = _BY_CODE.get(code, StoreError)(message)
    if isinstance(error, StoreUnavailable):
        error.internal = code in _INTERNAL
    return error


def is_conflict(error: StoreError) -> bool:
    """True if the server's database found two of what it can have only one of, which MLflow tells as a failure.

    That is a race, over after a moment; or two names that the database takes for one and MLflow does not (``lr`` and
    ``LR`` in MySQL), which no repetition mends.
    """
    return any(sign in str(error) for sign in _CONFLICTS)


def error_of(answer: Answer, endpoint: Endpoint, what: str) -> StoreError | None:
    """The error that an answer stands for; None for a success.

    Args:
        answer: what came back.
        endpoint: who was asked.
        what: what was asked, in words that go on from "could not …" (``log a batch``), for the message.
    """
    if 200 <= answer.status < 300:
        return None
    code, told = _told(answer)
    where = f"the MLflow server at {endpoint.url}"
    if answer.status == 401 or (answer.status == 403 and code != "PERMISSION_DENIED"):
        return AccessDenied(_denied(answer, endpoint, told, what))
    if code:
        unknown = StoreUnavailable if answer.status >= 500 else StoreError
        kind = _BY_CODE.get(code, unknown)
        advice = "; ask its owner for the permission" if kind is AccessDenied else ""
        verb = "refused to" if kind in {Refused, AccessDenied} else "could not"
        error = kind(f"{where} {verb} {what}: {told or code}{advice}")
        if isinstance(error, StoreUnavailable):
            error.internal = code in _INTERNAL or (code not in _BY_CODE and answer.status == 500)
        return error
    return _without_code(answer, endpoint, told, what)


def _without_code(answer: Answer, endpoint: Endpoint, told: str, what: str) -> StoreError:
    """The error of an answer that is not MLflow's own: a proxy's, mostly."""
    where = f"the MLflow server at {endpoint.url}"
    if answer.status == 429:
        again = "later" if answer.retry_after is None else f"in {answer.retry_after:g} s"
        return StoreUnavailable(f"{where} has too much to do (429) and wants to be asked again {again}")
    if "disabled due to the mlflow server running" in told:
        return StoreError(f"{where} cannot {what}: {told}")
    if answer.status >= 500 or answer.status == 408:
        error = StoreUnavailable(f"{where} could not {what}: it answered {answer.status}{_quoted(told)}")
        error.internal = answer.status == 500
        return error
    if 300 <= answer.status < 400:
        target = without_credentials(answer.headers.get("location", "")).partition("?")[0]
        return StoreError(
            f"{where} redirects to {target or 'another place'}: set the tracking URI to the server's own address, "
            "and credentials if that is a login page"
        )
    if answer.status in {404, 405}:
        return StoreError(
            f"there is no MLflow REST API at {endpoint.url} (it answered {answer.status}): check the tracking URI, "
            "and its path if the server lives below one"
        )
    if answer.status == 413:
        return Refused(f"{where}, or a proxy before it, refused to {what}: the request is too large (413)")
    return Refused(f"{where} refused to {what}: it answered {answer.status}{_quoted(told)}")


def not_json(answer: Answer, endpoint: Endpoint) -> StoreError:
    """The error for a success whose body is not what MLflow sends: a login page, or half an answer."""
    text = answer.body[:2000].decode("utf-8", "replace").lstrip()
    if text.startswith("<"):
        return StoreError(
            f"what answers at {endpoint.url} is a web page, not MLflow's REST API: check the tracking URI, and "
            f"credentials if it is a login page{_quoted(_plain(text))}"
        )
    return StoreUnavailable(f"the answer of the MLflow server at {endpoint.url} is incomplete or is not JSON")


def _told(answer: Answer) -> tuple[str, str]:
    text = answer.body[:100_000].decode("utf-8", "replace")
    try:
        told = decoded(text)
    except ValueError:
        return "", _plain(text)
    if not isinstance(told, dict):
        return "", ""
    message = told.get("message") or told.get("detail") or ""
    # A database's error ends with the statement and its values, which help nobody who is not its owner.
    return str(told.get("error_code") or ""), _plain(str(message).partition("[SQL:")[0])


def _plain(text: str) -> str:
    if text.lstrip().startswith("<"):
        text = _TAGS.sub(" ", text)
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_LIMIT else text[:MESSAGE_LIMIT] + "…"


def _quoted(text: str) -> str:
    return f" ({text})" if text else ""


def _denied(answer: Answer, endpoint: Endpoint, told: str, what: str) -> str:
    where = f"the MLflow server at {endpoint.url}"
    if "host header" in told.lower():
        return f"{where} does not answer to the name {endpoint.host}: start it with --allowed-hosts {endpoint.host}"
    if endpoint.credentials_from is None:
        return (
            f"{where} wants credentials ({answer.status}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or MLFLOW_TRACKING_TOKEN"
        )
    if answer.status == 401:
        return f"{where} refused the credentials of {endpoint.credentials_from} (401): are they right and not expired?"
    return f"{where} does not let the user of {endpoint.credentials_from} {what} (403){_quoted(told)}"
