"""Processes that wait for the same server do not all ask it again at the same moment."""

from __future__ import annotations

from random import SystemRandom


def spread(low: float, high: float) -> float:
    """A factor between two others, by which a wait is made longer or shorter.

    Not from the generator that the functions of `random` share: a program that has seeded it gets the numbers that it
    would get untracked.

    >>> 0.75 <= spread(0.75, 1.25) <= 1.25
    True
    """
    return SystemRandom().uniform(low, high)
