"""Ids that are given out while the tracking server is away, and stay valid.

MLflow's server chooses the ids of runs and models. Where it cannot be asked, user code gets an id of ours, which has
the form of one of MLflow's (32 hexadecimal digits) and is told apart by the version digit of a UUID: MLflow's are of
version 4, ours of version 8 (RFC 9562, "custom"). When the run is created, the id becomes an index tag of it, so that
whoever still holds it, on whatever machine, finds the run in one indexed look-up.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

ID_TAG: Final = "mlflow.tracklayer.id."
"""How the index tags begin by which a run is found under an id that was given out before it existed."""

PENDING: Final = "pending"
"""In place of the id of an experiment that is not known yet."""

BY_NAME: Final = "name:"
"""How the id of an experiment begins that user code chose by its name while nobody could be asked for it."""

EXPECTED: Final = "expected"
"""In place of the id of an experiment: of a run that nobody could find, and that may be there later, or never."""

EXPECTED_TAG: Final = "mlflow.tracklayer.expected."
"""How the tags begin of a run that is to be linked to another one, should that come to be; then an id of that."""

_FORM = re.compile(r"[0-9a-f]{12}8[0-9a-f]{3}[89ab][0-9a-f]{15}")
_MODEL = "m-"


def provisional_id(key: str | None = None) -> str:
    """An id for a run that the server does not know yet.

    Args:
        key: the run's key; the id is then the same in every process. None for a run that has none: a random one.

    >>> provisional_id("airflow:default/flights/r1/train#1") == provisional_id("airflow:default/flights/r1/train#1")
    True
    >>> is_provisional(provisional_id())
    True
    """
    digits = secrets.token_hex(16) if key is None else hashlib.sha256(b"id:" + key.encode()).hexdigest()[:32]
    return f"{digits[:12]}8{digits[13:16]}{'89ab'[int(digits[16], 16) % 4]}{digits[17:]}"


def provisional_model_id() -> str:
    """An id for a logged model that the server does not know yet."""
    return _MODEL + provisional_id()


def is_provisional(identifier: str) -> bool:
    """True for an id of a run or model that was given out by tracklayer, not by the server.

    >>> is_provisional("4d0b2f6c1a834e5f9f0c6a1e2b3d4c5f")  # MLflow's own: version 4
    False
    >>> is_provisional("m-4d0b2f6c1a838e5f9f0c6a1e2b3d4c5f")
    True
    """
    return _FORM.fullmatch(identifier.removeprefix(_MODEL)) is not None


def id_tag(identifier: str) -> str:
    """Name of the tag by which the run or model is found that was given out as `identifier`."""
    return ID_TAG + identifier.removeprefix(_MODEL)
