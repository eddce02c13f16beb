"""Whose a failure is, as far as it can be told by asking once more: one request's, or the server's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer.exceptions import AccessDenied, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracklayer.store import Store


def is_of_one(error: Exception, store: Store) -> bool:
    """Whether a failure is about what was asked alone: the server serves others, and takes the credentials."""
    if isinstance(error, AccessDenied) or is_internal(error):
        try:
            store.ping()
        except StoreError:
            return False
        return True
    return not isinstance(error, StoreUnavailable)


def failure_of_one(request: Callable[[], object], store: Store) -> Exception | None:
    """Make a request that may be repeated, and that nothing waits for.

    Returns:
        Why it will never be granted; None if it was. Whoever is denied it is so twice, with the server's word in between that
        the credentials are good: they may just have been restored, or read anew.

    Raises:
        StoreError: the server is away, lets nobody in, or may yet do it.
    """
    for last in (False, True):
        try:
            request()
        except Exception as error:
            if isinstance(error, StoreUnavailable) or not is_of_one(error, store):
                raise
            if last or not isinstance(error, AccessDenied):
                return error
        else:
            break
    return None


def is_internal(error: Exception) -> bool:
    """Whether the server answered that it failed inside: perhaps with this request, and it serves all others."""
    return isinstance(error, StoreUnavailable) and error.internal
