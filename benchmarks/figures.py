"""What a benchmark found: printed as a table, and written as JSON so that two machines or commits can be compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).resolve().parents[1] / ".bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number.

    Attributes:
        figure: what was measured; the same words in every run.
        value: the number.
        unit: its unit (``requests``, ``ms``, ``MB``, ``×``).
        budget: what it may be at most (or has to be at least); None where there is no budget.
        holds: is it within its budget? None where there is none.
    """

    figure: str
    value: float
    unit: str
    budget: float | None = None
    holds: bool | None = None


def figure(name: str, value: float, unit: str, budget: float | None = None, *, at_least: bool = False) -> Figure:
    """A figure, compared with its budget: it may be that much at most, or has to be `at_least` that much."""
    rounded, holds = round(value, 3), None
    if budget is not None:
        holds = rounded >= budget if at_least else rounded <= budget
    return Figure(figure=name, value=rounded, unit=unit, budget=budget, holds=holds)


def report(name: str, title: str, figures: Sequence[Figure]) -> None:
    """Print the table and write ``.bench/<name>.json``."""
    width = max(len(one.figure) for one in figures)
    print(f"\n{title}\n")
    print(f"  {'':<{width}}  {'value':>10}  {'unit':<9} {'budget':>8}")
    for one in figures:
        budget = "" if one.budget is None else f"{one.budget:g}"
        verdict = {None: "", True: "holds", False: "OVER"}[one.holds]
        print(f"  {one.figure:<{width}}  {one.value:>10,.2f}  {one.unit:<9} {budget:>8}  {verdict}")
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / f"{name}.json"
    target.write_text(json.dumps([asdict(one) for one in figures], indent=2, ensure_ascii=False) + "\n")
    print(f"\n  {target.relative_to(FOLDER.parent)}")
