"""Where the artifacts of runs and models are said to be that the tracking server does not know yet.

MLflow asks for the place of an artifact before it writes there, and writes that place, and the ids of run and model,
into the file ``MLmodel`` of each model that it logs. While the server is away the place has the form
``mlflow-artifacts:/pending/<local id>/artifacts``; on delivery the file gets what the server chose.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tracklayer.provisional import is_provisional

if TYPE_CHECKING:
    from collections.abc import Callable

_BEFORE: Final = "mlflow-artifacts:/pending/"
_AFTER: Final = "/artifacts"
_IDENTIFIER: Final = r"(?:m-)?[0-9a-f]{32}"
_URI = re.compile(re.escape(_BEFORE) + f"({_IDENTIFIER}){_AFTER}(?:/(.*))?")
_MENTION = re.compile(f"{re.escape(_BEFORE)}{_IDENTIFIER}{_AFTER}|(?<![0-9a-f-]){_IDENTIFIER}(?![0-9a-f])")


def pending_uri(identifier: str) -> str:
    """Where the artifacts of a run or model are said to be until the server is asked.

    Args:
        identifier: local id of the run or model; one of the server's own may be among them, where only the place is
            not known.

    >>> pending_uri("m-4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f")
    'mlflow-artifacts:/pending/m-4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f/artifacts'
    """
    return f"{_BEFORE}{identifier}{_AFTER}"


def pending_owner(uri: str) -> tuple[str, str] | None:
    """Local id of the run or model to which a place belongs, and the path below it; None for a place that is none of ours.

    >>> pending_owner("mlflow-artifacts:/pending/4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f/artifacts/plots")
    ('4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f', 'plots')
    >>> pending_owner("mlflow-artifacts:/7/4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f/artifacts") is None
    True
    """
    found = _URI.fullmatch(uri.rstrip("/"))
    return None if found is None else (found[1], (found[2] or "").strip("/"))


def names_ids(path: str) -> bool:
    """True for an artifact in which MLflow writes the ids of the run and the model: see `with_real_ids`.

    >>> names_ids("MLmodel"), names_ids("model.pkl")
    (True, False)
    """
    return path.rpartition("/")[2] == "MLmodel"


def names_given_out(content: bytes) -> bool:
    """True for a file with ids or places in it that were given out before the server had chosen them.

    >>> names_given_out(b"model_id: m-4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f"), names_given_out(b"model_id: m-1")
    (True, False)
    """
    return with_real_ids(content, lambda _: ("", "-")) != content


def with_real_ids(content: bytes, real: Callable[[str], tuple[str, str] | None]) -> bytes:
    """The file ``MLmodel`` with the server's ids and places for those that were given out before it had chosen them.

    Args:
        content: the file.
        real: the server's id of a run or model, and where its artifacts are, by its local id; None where that is
            unknown, which is left as it is.

    >>> with_real_ids(
    ...     b"model_id: m-4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f",
    ...     {"m-4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f": ("m-1", "s3://b/1/models/m-1/artifacts")}.get,
    ... )
    b'model_id: m-1'
    """

    def replaced(found: re.Match[str]) -> str:
        text = found[0]
        owner = pending_owner(text)
        identifier = text if owner is None else owner[0]
        if owner is None and not is_provisional(identifier):
            return text
        told = real(identifier)
        if told is None:
            return text
        return told[0] if owner is None else told[1] or text

    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    changed = _MENTION.sub(replaced, text)
    return content if changed == text else changed.encode()
