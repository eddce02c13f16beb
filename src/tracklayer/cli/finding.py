"""What the doctor finds: one line each, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Level = Literal["ok", "info", "warning", "problem"]

SECTIONS: Final = ("Installed", "Plugins", "Settings", "Server", "Journal", "This place")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: one of `SECTIONS`.
        name: what was looked at.
        text: what was found.
        level: ``problem`` makes the doctor end with exit code 1; ``info`` is neither good nor bad.
        advice: what to do, for every problem and warning; else None.
        detail: True for what is shown only when asked for.
    """

    section: str
    name: str
    text: str
    level: Level = "info"
    advice: str | None = None
    detail: bool = False


def problems(findings: Sequence[Finding]) -> int:
    """How many problems there are."""
    return sum(finding.level == "problem" for finding in findings)


def sections(findings: Sequence[Finding], *, details: bool) -> dict[str, list[Finding]]:
    """The findings to show, by section."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        if details or not finding.detail:
            found.setdefault(finding.section, []).append(finding)
    return found
