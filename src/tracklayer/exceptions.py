"""What can go wrong, as one tree.

::

    TracklayerError
    ├── SettingsError        a setting is wrong: names the key, where it stands, and what is allowed
    ├── ArgumentError        an argument is of a wrong type: names it, its value, and what is wanted
    ├── PluginError          a plugin failed: names the plugin and the hook
    ├── TokenError           a token from outside cannot be read
    └── StoreError           the tracking back end did not do what was asked
        ├── StoreUnavailable     no answer, or one that says "later": asking again may help
        ├── AccessDenied         the credentials are missing or refused
        ├── NotFound             there is no such run, experiment, or model
        ├── AlreadyExists        the name is taken (perhaps by a deleted experiment)
        └── Refused              the value itself is refused: asking again never helps

With ``on_error = "log"`` (the default) none of these reaches the user's code; see `tracklayer.track`.
"""

from __future__ import annotations


class TracklayerError(Exception):
    """The root of everything that tracklayer raises on purpose."""


class SettingsError(TracklayerError):
    """A setting is unknown, of the wrong type, or names a template field that does not exist."""


class ArgumentError(TracklayerError):
    """An argument of `tracklayer.track` is of a wrong type."""


class PluginError(TracklayerError):
    """A plugin failed at import or in a hook; the message names the plugin and the hook."""


class TokenError(TracklayerError):
    """A token that came from outside is malformed, too long, or of an unknown version."""


class StoreError(TracklayerError):
    """The tracking back end did not do what was asked."""


class StoreUnavailable(StoreError):
    """The back end gave no answer in time, or one that says to come back later (429, 5xx)."""

    retry_after: float | None = None  # seconds after which the server wants to be asked again, if it said so
    internal: bool = False  # it answered that it failed inside: perhaps with this request, and it serves all others


class AccessDenied(StoreError):
    """The back end refused the credentials (401, 403), or none were found where it wants some."""


class NotFound(StoreError):
    """There is no such run, experiment or model."""


class AlreadyExists(StoreError):
    """The name is taken, perhaps by an experiment that was deleted."""


class Refused(StoreError):
    """The back end refused the value itself; repeating the same request can never succeed."""
