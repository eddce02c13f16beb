"""The tracking back end that a command reads: that of the settings, or of ``--tracking-uri``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tracklayer import backend
from tracklayer import settings as settings_module
from tracklayer.exceptions import NotFound, SettingsError, StoreError

if TYPE_CHECKING:
    from tracklayer.backend import Backend
    from tracklayer.settings import Settings
    from tracklayer.store import Store

PATIENCE = 30.0
"""Seconds for an answer where somebody sits and waits for it; a pipeline has less, see the setting ``timeout``."""

WAYS = "give --tracking-uri, or set MLFLOW_TRACKING_URI, TRACKLAYER_TRACKING_URI, or tracking_uri in tracklayer.toml"
"""How to say where the tracking server is."""

_HOST: Final = re.compile(r"[\w.-]+:\d{1,5}(?:/.*)?")


def read_settings(tracking_uri: str | None = None) -> Settings:
    """The settings, with the tracking URI of the command line if one was given.

    Raises:
        SettingsError: a setting is wrong.
    """
    return settings_module.load({"tracking_uri": tracking_uri})


def open_store(settings: Settings, *, patient: bool = True) -> Store:
    """The store of the settings; see `open_backend`."""
    return open_backend(settings, patient=patient).store


def open_backend(settings: Settings, *, patient: bool = True) -> Backend:
    """The back end of the settings, also where they turn tracking off: reading is not tracking.

    Args:
        settings: where it is.
        patient: wait for answers as somebody at a terminal does; False: as short as a pipeline.

    Raises:
        SettingsError: there is no tracking URI, or it is wrong, as a host and port without a scheme.
        NotFound: it names an SQLite file that does not exist; the mlflow library would make one.
        StoreError: it names one that this user may not look at.
    """
    uri = backend.tracking_uri(settings)
    if uri:
        if _HOST.fullmatch(uri):  # which mlflow takes for a folder, or a scheme that it does not know
            raise SettingsError(f"the tracking URI {uri} has no scheme: http://{uri} is one that has")
        _look_for_file(uri)
    timeout = max(settings.timeout, PATIENCE) if patient else settings.timeout
    opened = backend.open_backend(msgspec.structs.replace(settings, enabled=True, timeout=timeout))
    if opened is None:
        raise SettingsError(f"there is no tracking URI: {WAYS}")
    return opened


def _look_for_file(uri: str) -> None:
    """Raises StoreError: it is the URI of an SQLite file that is not there, or nobody can say whether it is."""
    scheme, separator, rest = uri.partition(":///")
    path = rest.partition("?")[0]
    if not separator or scheme.partition("+")[0] != "sqlite" or path in ("", ":memory:") or path.startswith("file:"):
        return
    try:
        Path(path).stat()
    except PermissionError as error:
        raise StoreError(
            f"the database {path} cannot be read: {error.strerror}; let this user enter its folder, or run this as one "
            "who may"
        ) from None
    except OSError:
        raise NotFound(
            f"there is no database {path}; a relative path begins at the working directory, {_working_directory()}"
        ) from None


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "which was removed"
