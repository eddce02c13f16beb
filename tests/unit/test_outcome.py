from __future__ import annotations

import asyncio

import pytest

from tracklayer.outcome import of_exception


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("x"), "FAILED"),
        (SystemExit(), "FINISHED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(3), "FAILED"),
        (SystemExit("message"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (asyncio.CancelledError(), "KILLED"),
        (GeneratorExit(), "FINISHED"),
    ],
)
def test_how_a_block_ended(error: BaseException, status: str) -> None:
    assert of_exception(error).status == status
