"""Tracking's own arguments on an operator (``stage``, ``run_name``, …): where they are kept, and what is made of them.

They are attributes by these names, as an operator's arguments are. Where the operator's class, or its ``__init__``, has
something of its own by such a name, that stays what it is, and ours is kept under a name that begins with `PREFIX`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tracklayer.context import RunContext
    from tracklayer.settings import Settings

ARGUMENTS: Final = frozenset({"stage", "run_name", "experiment", "run_tags"})
"""Names of the arguments that every tracked operator takes."""

TEMPLATED: Final = ("run_name", "experiment", "run_tags")
"""Those of them that are templates."""

PREFIX: Final = "tracklayer_"


def keep(operator: Any, given: Mapping[str, Any], tracked: type) -> None:
    """Keep what was given for tracking's arguments on the operator, whose own ``__init__`` has been called.

    Args:
        operator: the operator.
        given: its arguments for tracking by name.
        tracked: the class `Tracked`, whose subclasses list our templated fields among theirs.
    """
    kept = vars(operator)  # not by setattr, which an operator may have for itself
    moved = [name for name in given if _is_occupied(operator, name)]
    for name, value in given.items():
        kept[PREFIX + name if name in moved else name] = value
    if moved:
        fields = tuple(_fields(operator, given, moved, tracked))
        if fields != _listed(operator.template_fields):
            operator.template_fields = fields


def kept(operator: Any, name: str) -> Any:
    """What was given for one of `ARGUMENTS`, rendered; None if it was not given, or is the operator's own.

    Args:
        operator: the operator; a mapped one, which has not been expanded, tells what all of its instances have.
        name: the argument.
    """
    kind = getattr(operator, "operator_class", type(operator))
    if name in kind.tracklayer_taken:
        return None
    found = vars(operator) if kind is type(operator) else operator.partial_kwargs
    return found.get(PREFIX + name, found.get(name))


def is_moved(operator: Any) -> bool:
    """Whether one of the arguments is kept under another name than its own."""
    return any(PREFIX + name in vars(operator) for name in ARGUMENTS)


def _is_occupied(operator: Any, name: str) -> bool:
    return name in vars(operator) or any(name in vars(one) for one in type(operator).__mro__)


def _fields(operator: Any, given: Iterable[str], moved: Iterable[str], tracked: type) -> Iterable[str]:
    """The operator's templated fields, with the names under which ours are kept."""
    listed = _listed(operator.template_fields)
    # Where ours are not among them, its author has listed what is the operator's own.
    with_ours = set(listed) >= set(TEMPLATED).intersection(given)
    for name in dict.fromkeys(listed):
        if name not in moved or name not in TEMPLATED:
            yield name
            continue
        if not with_ours or listed.count(name) > 1 or _is_theirs(operator, name, tracked):
            yield name
        if with_ours:
            yield PREFIX + name


def _is_theirs(operator: Any, name: str, tracked: type) -> bool:
    """Whether an operator's class that is not tracked has the field among its templated ones."""
    behind = (one for one in type(operator).__mro__ if not issubclass(one, tracked))
    listed = (vars(one).get("template_fields") for one in behind)
    return any(isinstance(one, (str, list, tuple)) and name in _listed(one) for one in listed)


def _listed(fields: Any) -> tuple[str, ...]:
    return (fields,) if isinstance(fields, str) else tuple(fields or ())


def for_stage(operator: Any, context: RunContext, settings: Settings, *, begun: bool) -> dict[str, Any]:
    """The arguments as `tracklayer.tracking.track` takes them. One that cannot be used is named in the log, and left out.

    Args:
        operator: the operator.
        context: where its task runs.
        settings: the settings.
        begun: False if the operator may not be rendered; then what is a template still is left out.
    """
    from tracklayer import naming
    from tracklayer.fence import fence
    from tracklayer.settings import replaced

    found: dict[str, Any] = {}
    for name in sorted(ARGUMENTS):
        with fence(f"reading the argument {name}", settings.on_error):
            value = _usable(name, kept(operator, name))
            if not value or (not begun and not is_rendered(value)):
                continue
            if name == "experiment":
                value = naming.experiment_name(context, replaced(settings, {name: value}))
            found["tags" if name == "run_tags" else name] = value
    return found


def is_rendered(value: Any) -> bool:
    """Whether there is no template left in a value, as far as its text shows."""
    if isinstance(value, dict):
        return all(map(is_rendered, value.values()))
    return not (isinstance(value, str) and ("{{" in value or "{%" in value))


def _usable(name: str, value: Any) -> Any:
    from collections.abc import Mapping

    from tracklayer.exceptions import ArgumentError
    from tracklayer_airflow.arguments import plain

    if value is None:
        return None
    if name != "run_tags":
        if isinstance(value, str):
            return value
        if plain(value):  # rendered natively: a name that looks like a number has become one
            return _text(value)
    elif isinstance(value, Mapping):
        return {str(tag): _text(one) for tag, one in value.items()}
    wanted = "a mapping" if name == "run_tags" else "text"
    raise ArgumentError(f"{name} must be {wanted}, and not {type(value).__name__}: the task's run does without it")


def _text(value: Any) -> str:
    from tracklayer.values import text

    return value if isinstance(value, str) else text(value)
