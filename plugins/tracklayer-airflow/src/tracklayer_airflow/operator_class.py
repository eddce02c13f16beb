"""The tracked class of any operator class: `tracked`."""

from __future__ import annotations

import copyreg
import inspect
import sys
from contextlib import suppress
from functools import lru_cache, wraps
from operator import attrgetter
from types import new_class
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseOperator

from tracklayer_airflow.function_source import remember, without_tracked
from tracklayer_airflow.operators import Tracked
from tracklayer_airflow.own_arguments import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT: Final = 1_000
"""So many classes are remembered, that asking twice for one gives the same."""


_VARIOUS: Final = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})


def tracked(kind: Any) -> Any:
    """The operator class `kind`, whose tasks run inside an MLflow run of their own.

    ::

        tracked(BashOperator)(task_id="train", bash_command="python train.py", stage="training")
        tracked(BashOperator).partial(task_id="fold", stage="training").expand(bash_command=commands)

        @tracked(task.branch)(stage="evaluation")
        def good_enough() -> str: ...

    The class is a subclass of both `Tracked` and `kind`: it takes the arguments of both, and has the templated fields
    and the links of both. Where `kind` has an argument of its own that is called ``stage``, ``run_name``,
    ``experiment`` or ``run_tags``, that one is meant, and tracking does without.

    Args:
        kind: any class of operators or sensors (deferrable, branching, of whatever provider), or one of Airflow's task
            decorators (``task.branch``, ``task.virtualenv``, ``task.kubernetes``).

    Returns:
        The same class each time for the same `kind`; a decorator for a decorator.

    Raises:
        TypeError: `kind` is neither, or it is tracked already.
    """
    if isinstance(kind, type) and issubclass(kind, Tracked):
        raise TypeError(f"{kind.__name__} is tracked already: use it as it is")
    if isinstance(kind, type) and issubclass(kind, BaseOperator):
        return _tracked_class(kind)
    if _is_task_decorator(kind):
        return _tracked_decorator(kind)
    raise TypeError(
        f"tracked() takes a class of operators, as in tracked(BashOperator)(task_id=...), or a task decorator, as in "
        f"@tracked(task.branch); not {_named(kind)}"
    )


@lru_cache(maxsize=KEPT)
def _tracked_class(kind: type[BaseOperator]) -> type[Tracked]:
    taken = frozenset(ARGUMENTS & _arguments(kind))
    first = _TrackedFunction if hasattr(kind, "get_python_source") else Tracked
    name = f"Tracked{kind.__name__}"
    namespace = {
        "__doc__": f"`{kind.__name__}` inside a stage run, see `tracklayer_airflow.tracked`.\n\n{kind.__doc__ or ''}",
        "__module__": kind.__module__,
        "__qualname__": name,
        "tracklayer_kind": kind,
        "tracklayer_taken": taken,
        "template_fields": _both(kind, "template_fields", [one for one in Tracked.template_fields if one not in taken]),
        "operator_extra_links": _both(kind, "operator_extra_links", Tracked.operator_extra_links),
    }
    made: type[Tracked] = new_class(name, (first, kind), exec_body=lambda body: body.update(namespace))
    # For classes pickle asks nobody but this table, by the class of the class, which is Airflow's for all operators. One of
    # our own would be in the way of who derives from a made class and another that has one. What somebody has there stands.
    copyreg.dispatch_table.setdefault(type(made), _pickled)
    return made


def _pickled(kind: type) -> str | tuple[Any, ...]:
    """How pickle finds an operator class in another process: a made one is made there, too, for no module has it.

    A task that pickles itself (``ProcessPoolExecutor().map(self.one, ...)``) pickles its DAG, and with that the class of
    each task of it, tracked or not.
    """
    behind = vars(kind).get("tracklayer_kind")  # of its own: a class that is derived from a made one is in its module
    if behind is None:
        return kind.__qualname__
    return behind.__qualname__ if _stands_for(kind, behind) else (tracked, (behind,))


def _stands_for(made: type, behind: type) -> bool:
    """Whether a made class is found where the one behind it was: `tracked` was written above that as a decorator."""
    try:
        found: object = attrgetter(behind.__qualname__)(sys.modules[behind.__module__])
    except (KeyError, AttributeError):
        return False
    return found is made


class _TrackedFunction(Tracked):
    """What is in front of operators that hand the source of a function to another interpreter."""

    def get_python_source(self) -> str:
        """The function's source, without decorators, like ``@tracked(task.virtualenv)``, that mean nothing over there."""
        source: str = super().get_python_source()  # type: ignore[misc]  # the operator's, which is behind in the order
        return without_tracked(source, self.python_callable)  # type: ignore[attr-defined]  # the operator's, too


def _arguments(kind: type[BaseOperator]) -> set[str]:
    """Names of the arguments that the class takes, but for those of all operators."""
    found: set[str] = set()
    for one in kind.__mro__[: kind.__mro__.index(BaseOperator)]:
        if (own := vars(one).get("__init__")) is not None:
            with suppress(TypeError, ValueError):  # it does not say what it takes
                taken = inspect.signature(own).parameters.values()
                found |= {parameter.name for parameter in taken if parameter.kind not in _VARIOUS}
    return found


def _both(kind: type[BaseOperator], name: str, ours: Any) -> Any:
    """An attribute that lists things, of the class, with ours at its end; a property where it is one."""
    theirs = inspect.getattr_static(kind, name)
    if not isinstance(theirs, property):
        return _joined(theirs, ours)

    def get(self: Any) -> Any:
        set_here = getattr(self, "__dict__", {}).get(name)
        return _joined(theirs.__get__(self), ours) if set_here is None else set_here

    def put(self: Any, value: Any) -> None:
        self.__dict__[name] = value

    return property(get, put)


def _joined(theirs: Any, ours: Any) -> tuple[Any, ...]:
    listed = (theirs,) if isinstance(theirs, str) else tuple(theirs or ())
    return (*listed, *(one for one in ours if one not in listed))


def _is_task_decorator(kind: Any) -> bool:
    """Whether `kind` is one of Airflow's ``@task.…``: all take the function under the same name."""
    try:
        return inspect.isfunction(kind) and "python_callable" in inspect.signature(kind).parameters
    except ValueError:
        return False


def _tracked_decorator(decorator: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(decorator)
    def decorate(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
        if python_callable is not None:
            remember(python_callable, tracked, decorate)
            return _retyped(decorator(python_callable, **kwargs))
        given = decorator(**kwargs)

        def with_arguments(function: Callable[..., Any]) -> Any:
            remember(function, tracked, decorate, with_arguments)
            return _retyped(given(function))

        return with_arguments

    return decorate


def _retyped(decorated: Any) -> Any:
    """What ``@task.…`` has made of a function, with the tracked class in place of its operator class."""
    decorated.operator_class = tracked(decorated.operator_class)
    return decorated


def _named(kind: Any) -> str:
    if isinstance(kind, BaseOperator):
        return f"the task {kind.task_id!r}: the class is meant, {type(kind).__name__}"
    if inspect.isfunction(kind):
        return f"the function {kind.__name__}(), for which there is @task.tracked"
    return f"{kind!r:.100}"
