"""Experiment and run names, made from templates and valid for MLflow. See ``docs/reference/naming.md``.

A template is text with fields in braces: ``{team}/{workflow}``, ``{stage}-lr={params.model.lr}``,
``{workflow}-{logical_date:%Y-%m}``. Fields are looked up in a fixed table, never by attribute or index, so a template
cannot reach into objects. A field without a value vanishes with the separator before it.
"""

from __future__ import annotations

import hashlib
import re
import string
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tracklayer.exceptions import SettingsError
from tracklayer.params import flatten
from tracklayer.redaction import Redaction
from tracklayer.values import text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracklayer.context import RunContext
    from tracklayer.settings import Settings

EXPERIMENT_LIMIT: Final = 256
RUN_NAME_LIMIT: Final = 250
PARAM_LIMIT: Final = 60
"""Longest text of one param inside a name; what is beyond is cut."""

INDEX_LIMIT: Final = 12
"""A map index longer than this is an id, of which ``{task_run}`` shows the first 8 characters."""

_DATES: Final = {"date": "%Y-%m-%d", "logical_date": "%Y-%m-%dT%H:%M:%S", "started_at": "%Y-%m-%dT%H:%M:%S"}
_FIELDS: Final[Mapping[str, Callable[[RunContext, Settings], object]]] = {
    "team": lambda _, settings: settings.team,
    "project": lambda _, settings: settings.project,
    "version": lambda context, settings: settings.version or context.workflow_run.version,
    "instance": lambda context, _: context.workflow_run.instance,
    "orchestrator": lambda context, _: context.workflow_run.orchestrator,
    "workflow": lambda context, _: context.workflow_run.workflow,
    "workflow_run": lambda context, _: context.workflow_run.name or context.workflow_run.run_id,
    "stage": lambda context, _: context.stage,
    "task": lambda context, _: context.task_run and context.task_run.task,
    "task_run": lambda context, _: _task_run(context),
    "index": lambda context, _: context.task_run and context.task_run.index,
    "try": lambda context, _: context.task_run and context.task_run.try_number,
    "date": lambda context, _: _logical_date(context),
    "logical_date": lambda context, _: _logical_date(context),
    "started_at": lambda context, _: _started_at(context),
}
FIELDS: Final = (*_FIELDS, "params.<key>")
"""The fields that a template may name."""

# Width and precision of at most three digits: a template must not be able to ask for a gigabyte of blanks.
_FORMAT = re.compile(r"(?:.?[<>=^])?[-+ ]?#?0?\d{0,3}[_,]?(?:\.\d{1,3})?[bcdeEfFgGnosxX%]?", re.DOTALL)
# Of strftime, C's and glibc's included; what a platform does not know gives the date as it is.
_DIRECTIVE = re.compile(
    r"%[-_0^#]?\d{0,3}(?:[aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZf%+]|:z|E[cCxXyY]|O[deHImMSuUVwWy])"
)
# Separators, a label such as "lr=" or "v", an opening bracket: what stands before a field for the field's sake.
_LEAD = re.compile(
    r"(?P<kept>.*?)(?P<lead>[-_/ .,:;|~+@#]*(?:[^-_/ .,:;|~+@#\[({<]*[=:] ?|[vV])?(?P<open>[\[(<]?))", re.DOTALL
)
_CLOSING: Final = {"[": "]", "(": ")", "<": ">", "": ""}
_SEPARATORS: Final = "-_/ .,:;|~+@#"

# Controls, line ends, marks that change the direction of writing, and halves of characters that no database stores.
_BAD = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

_DEFAULT: Final = "Default"
"""The experiment that MLflow makes itself, where runs land that nobody placed."""


def experiment_name(context: RunContext, settings: Settings) -> str:
    """The experiment's name by the setting ``experiment``, valid for MLflow; the workflow's name if nothing is left.

    Params come from the context (the task's, then the workflow run's). A workflow that happens to be called
    ``Default`` does not get MLflow's own experiment of that name, unless the template says so.

    Raises:
        SettingsError: the template is wrong; `tracklayer.settings.load` has checked the ones that come from it.
    """
    rendered = _render(settings.experiment, context, settings, {}, setting="experiment")
    name = rendered.strip() or context.workflow_run.workflow
    if name == _DEFAULT and settings.experiment.strip() != _DEFAULT:
        return _marked(name, EXPERIMENT_LIMIT)
    return valid_experiment_name(name)


def run_name(context: RunContext, settings: Settings, params: Mapping[str, object] | None = None) -> str:
    """The run's name, valid for MLflow: by ``run_name`` for a stage run, by ``parent_name`` for a workflow run.

    Args:
        context: where the run is; without a task it is that of the workflow run's parent.
        settings: hold the templates, and what they name of the user's (team, project).
        params: those of the run; looked up before the task's and the workflow run's own. Secrets are masked.

    Raises:
        SettingsError: the template is wrong; `tracklayer.settings.load` has checked the ones that come from it.
    """
    if context.task_run is None:
        rendered = _render(settings.parent_name, context, settings, params or {}, setting="parent_name")
        return valid_run_name(rendered.strip() or context.workflow_run.run_id)
    rendered = _render(settings.run_name, context, settings, params or {}, setting="run_name")
    return valid_run_name(rendered.strip() or _task_run(context) or context.task_run.task)


def valid_experiment_name(name: str) -> str:
    r"""`name` if MLflow and its databases take it as it is; else one made from it, ending in a digest of `name`.

    Replaced are control characters, line breaks, invisible and direction marks and lone surrogates; blanks at the
    ends go; more than 256 characters are cut. Two different names never become the same one.

    >>> valid_experiment_name("flights"), valid_experiment_name("two\nlines")
    ('flights', 'two_lines-edc8c1284585')
    """
    return _valid(name, EXPERIMENT_LIMIT)


def valid_run_name(name: str) -> str:
    """As `valid_experiment_name`, for a run: at most 250 characters."""
    return _valid(name, RUN_NAME_LIMIT)


def check_template(template: str, *, setting: str) -> None:
    """Check that `template` can be rendered.

    Args:
        template: what the user wrote.
        setting: what the message calls it; may say where it stands (``'experiment' in tracklayer.toml``).

    Raises:
        SettingsError: it names a field that does not exist, reaches into one, has a format that the field does not
            take, or braces that do not match. The message says what is allowed.
    """
    for _, name, form in _parse(template, setting):
        if name is None:
            continue
        if name not in _FIELDS and not (name.startswith("params.") and len(name) > len("params.")):
            raise SettingsError(_unknown(template, name, setting))
        if not (_is_of_dates(form) if name in _DATES else _FORMAT.fullmatch(form)):
            raise SettingsError(
                f"setting {setting}: {{{name}:{form}}} in {template!r} has a format that {name} does not take; allowed"
                " are Python's for text and numbers with a width of at most three digits, and date formats such as"
                f" %Y-%m-%d for {', '.join(_DATES)}"
            )


def _is_of_dates(form: str) -> bool:
    rest = _DIRECTIVE.sub("", form)
    return not form or (rest != form and "%" not in rest)


def _parse(template: str, setting: str) -> list[tuple[str, str | None, str]]:
    """Literal text, the field after it (None at the end) and its format."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SettingsError(
            f"setting {setting}: {template!r} is no template: {error}; write {{{{ and }}}} for braces"
        ) from None
    parsed = []
    for literal, name, form, conversion in parts:
        if name is not None and (conversion or "{" in (form or "")):
            raise SettingsError(
                f"setting {setting}: {template!r}: {{{name}}} takes neither conversions nor fields inside"
            )
        parsed.append((literal, name, form or ""))
    return parsed


def _unknown(template: str, name: str, setting: str) -> str:
    from difflib import get_close_matches

    plain_name = re.split(r"[.\[]", name)[0]
    if plain_name in _FIELDS:
        hint = f"; fields have no attributes and no index: write {{{plain_name}}}"
    else:
        near = get_close_matches(name, _FIELDS, n=1)
        hint = f"; did you mean {{{near[0]}}}?" if near else ""
    allowed = ", ".join(f"{{{field}}}" for field in FIELDS)
    return f"setting {setting}: unknown field {{{name}}} in {template!r}{hint} Allowed: {allowed}"


def _render(
    template: str, context: RunContext, settings: Settings, params: Mapping[str, object], *, setting: str
) -> str:
    check_template(template, setting=setting)
    lookup = _Params(context, settings, params)
    out, closing, is_first = "", "", False
    for literal, name, form in _parse(template, setting):
        # What belongs to a field without a value goes with it: its closing bracket, and the separator after it if
        # nothing stands before it.
        before = literal.removeprefix(closing)
        before = before.lstrip(_SEPARATORS) if is_first else before
        closing, is_first = "", False
        value = "" if name is None else _shown(name, form, context, settings, lookup)
        if name is None or value:
            out += before + value
            continue
        match = _LEAD.fullmatch(before)
        assert match is not None  # every part of it may be empty
        closing, kept = _CLOSING[match["open"]], match["kept"]
        is_first = not out and not kept
        out += before[: len(before) - len(before.lstrip(_SEPARATORS))] if is_first else kept
    return out


class _Params:
    """Params by dotted name, flattened only if a template asks; secrets masked."""

    def __init__(self, context: RunContext, settings: Settings, params: Mapping[str, object]) -> None:
        task = context.task_run.params if context.task_run else {}
        self._sources = (params, task, context.workflow_run.params)
        self._redaction = Redaction(settings.redact)

    def get(self, key: str) -> object:
        for source in self._sources:
            flat = flatten(source)
            if key in flat:
                return self._redaction.mask(key, flat[key])
        return None


def _shown(name: str, form: str, context: RunContext, settings: Settings, params: _Params) -> str:
    """A field's text; empty if it has no value."""
    if name in _DATES:
        moment = _FIELDS[name](context, settings)
        assert isinstance(moment, datetime)
        try:
            return moment.astimezone(UTC).strftime(form or _DATES[name]).strip()
        except (ValueError, OverflowError):  # a format that this platform does not know, a date at the end of time
            return moment.isoformat()
    if not name.startswith("params."):
        value = _FIELDS[name](context, settings)
        return "" if value is None else _formatted(value, form)
    value = params.get(name.removeprefix("params."))
    return "" if value is None else _formatted(value, form)[:PARAM_LIMIT]


def _formatted(value: object, form: str) -> str:
    if isinstance(value, str) and not value.strip():
        return ""
    if form and isinstance(value, (str, int, float)):
        try:
            return format(value, form)
        except ValueError:  # a format for numbers, and this time the value is none
            return text(value)
    return text(value)


def _task_run(context: RunContext) -> str | None:
    task_run = context.task_run
    if task_run is None:
        return None
    again = f" #{task_run.try_number}" if task_run.try_number > 1 else ""
    if task_run.name:
        return f"{task_run.name}{again}"
    index = task_run.index or ""
    shown = f"[{index[:8] if len(index) > INDEX_LIMIT else index}]" if index else ""
    return f"{task_run.task}{shown}{again}"


def _logical_date(context: RunContext) -> datetime:
    return _aware(context.workflow_run.logical_date) or _started_at(context)


def _started_at(context: RunContext) -> datetime:
    started = context.workflow_run.started_at
    if started is None and context.task_run is not None:
        started = context.task_run.started_at
    return _aware(started) or datetime.now(UTC)


def _aware(moment: datetime | None) -> datetime | None:
    """A naive time is taken for UTC: names must not depend on a machine's time zone."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _valid(name: str, limit: int) -> str:
    is_valid = name and len(name) <= limit and name == name.strip() and not _BAD.search(name)
    return name if is_valid else _marked(name, limit)


def _marked(name: str, limit: int) -> str:
    """A valid name made from `name`, told apart from those made from other names by a digest of 48 bits."""
    readable = _BAD.sub("_", name).strip()[: limit - 13].rstrip()
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable or 'unnamed'}-{digest}"
