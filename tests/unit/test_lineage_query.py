from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tracklayer.context import RunRef, Token
from tracklayer.exceptions import NotFound, TokenError
from tracklayer.identity import format_token
from tracklayer.lineage.query import find_run

if TYPE_CHECKING:
    from tracklayer.store import Store

RUN = "0123456789abcdef0123456789abcdef"


class Nothing:
    """A store that must not be asked: these names say by themselves which run they mean."""


def found(text: str) -> str:
    store: Store = Nothing()  # type: ignore[assignment]
    return find_run(store, text)


@pytest.mark.parametrize(
    "text",
    [
        RUN,
        f" {RUN}\n",
        f"runs:/{RUN}/model",
        f"http://127.0.0.1:5000/#/experiments/3/runs/{RUN}",
        f"https://mlflow.example.com/prefix/#/experiments/3/runs/{RUN}/artifacts?x=1",
        format_token(Token(run=RunRef(run_id=RUN, experiment_id="3", key="airflow:default/a/b/c#1"))),
    ],
)
def test_names_that_hold_the_id(text: str) -> None:
    assert found(text) == RUN


@pytest.mark.parametrize("text", ["", "two words", "it's", "' OR 1=1", "x" * 65, "ü"])
def test_what_is_no_name_is_refused_before_it_reaches_a_filter(text: str) -> None:
    with pytest.raises(NotFound, match="no name of a run: give a run id"):
        found(text)


def test_a_damaged_token_says_so() -> None:
    with pytest.raises(TokenError, match="damaged"):
        found("tl1.AAAA")
