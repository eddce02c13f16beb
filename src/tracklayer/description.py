"""A run's description: Markdown with links to upstream, downstream and the orchestrator's page.

tracklayer's part stands below a marker; what a user wrote above it is kept, also when the part is written anew.
MLflow's page renders GitHub-flavoured Markdown and drops HTML comments, so the marker is not seen.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from tracklayer.context import RunContext, RunRef, Upstream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tracklayer.store import Run

NOTE_TAG: Final = "mlflow.note.content"
MARKER: Final = "<!-- tracklayer -->"
DOWNSTREAM_MARKER: Final = "<!-- tracklayer downstream -->"
SHOWN: Final = 50
"""At most so many links are listed one by one; the tags and ``tracklayer lineage`` have them all."""

LIMIT: Final = 7_900
"""Longest description, in characters: MLflow cuts tag values over 8,000, some stores refuse them."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#|<>~&@$]|:(?=//))")


def escape(text: str) -> str:
    """Plain text for a line of Markdown: every character that could be markup is escaped, white space is folded."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))[:400]


def run_link(run: RunRef) -> str:
    """A Markdown link to a run, relative to MLflow's own pages, so that it works behind every host name and prefix."""
    label = run.name or run.stage or run.run_id[:8]
    detail = f" — {escape(run.key)}" if run.key else ""
    target = f"#/experiments/{quote(run.experiment_id)}/runs/{quote(run.run_id)}"
    return f"[{escape(label)}]({target}){detail}" if run.experiment_id else f"{escape(label)}{detail}"


def page_link(label: str, url: str) -> str | None:
    """A Markdown link to an orchestrator's page; None for anything but an http or https address."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        return None
    return f"[{escape(label)}]({quote(url, safe=':/?&=%#@+,;~!.-_')})"


def compose(context: RunContext, *, parent: RunRef | None, upstream: Sequence[Upstream], user: str = "") -> str:
    """The description of a run that is about to be created.

    Args:
        context: where it runs; without a task it is the workflow-run parent.
        parent: its parent, None for a parent.
        upstream: what it is linked to.
        user: what the user wrote; stands above.
    """
    workflow_run, task_run = context.workflow_run, context.task_run
    lines = []
    pages = [
        page_link(f"{workflow_run.orchestrator} task run", task_run.url) if task_run and task_run.url else None,
        page_link(f"{workflow_run.orchestrator} workflow run", workflow_run.url) if workflow_run.url else None,
    ]
    shown = [page for page in pages if page]
    what = f"{escape(workflow_run.workflow)} / {escape(workflow_run.run_id)}"
    lines.append(f"**{escape(workflow_run.orchestrator)}** {what}" + (f" · {' · '.join(shown)}" if shown else ""))
    if parent:
        lines.append(f"**Parent** {run_link(parent)}")
    if upstream:
        lines.append(_section("Upstream", [_upstream_line(item) for item in upstream]))
    if context.task_run is None and workflow_run.description and not user:
        user = workflow_run.description
    return _join(user, "\n\n".join(lines), "")


def recomposed(note: str, text: str) -> str:
    """`note` with tracklayer's part replaced by that of `text`; what the user wrote and downstream are kept."""
    user, own = _split(note)
    downstream = own.partition(DOWNSTREAM_MARKER)[2]
    return _join(user, _split(text)[1], downstream.strip())


def with_downstream(note: str, consumers: Iterable[Run]) -> str:
    """`note` with its list of downstream runs written anew; the rest of it is kept to the letter."""
    user, own = _split(note)
    own = own.split(DOWNSTREAM_MARKER)[0].strip()
    lines = [
        run_link(
            RunRef(
                run_id=run.run_id,
                experiment_id=run.experiment_id,
                key=run.tags.get("tracklayer.key"),
                name=run.name,
            )
        )
        for run in consumers
    ]
    return _join(user, own, _section("Downstream", lines) if lines else "")


def with_upstream(note: str, item: Upstream) -> str:
    """`note` with one more upstream run; the rest of it is kept to the letter."""
    user, own = _split(note)
    head, _, tail = own.partition(DOWNSTREAM_MARKER)
    line = _upstream_line(item)
    if line in head:
        return note
    known = "**Upstream**" in head
    head = f"{head.strip()}\n- {line}" if known else f"{head.strip()}\n\n{_section('Upstream', [line])}"
    return _join(user, head, tail.strip())


def with_user_text(note: str, text: str) -> str:
    """`note` with what the user wrote replaced by `text`, and tracklayer's part kept below."""
    _, own = _split(note)
    head, _, tail = own.partition(DOWNSTREAM_MARKER)
    return _join(text, head.strip(), tail.strip())


def _split(note: str) -> tuple[str, str]:
    user, marker, own = note.partition(MARKER)
    return user.rstrip(), own.strip() if marker else ""


def _join(user: str, own: str, downstream: str) -> str:
    """Put the parts together; where they are too long, downstream gives way first, then the user's text is kept."""
    tail = f"\n\n{DOWNSTREAM_MARKER}\n\n{downstream}" if downstream else ""
    head = f"{user.rstrip()}\n\n" if user.strip() else ""
    text = f"{head}{MARKER}\n\n{own}{tail}"
    if len(text) > LIMIT:
        text = f"{head}{MARKER}\n\n{own}"
    return text if len(text) <= LIMIT else text[:LIMIT]


def _upstream_line(item: Upstream) -> str:
    dataset = f", by {escape(item.dataset)}" if item.dataset else ""
    return f"{run_link(item.run)} ({item.kind}{dataset})"


def _section(title: str, lines: Sequence[str]) -> str:
    more = f"\n- … and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"**{title}**\n\n" + "\n".join(f"- {line}" for line in lines[:SHOWN]) + more
