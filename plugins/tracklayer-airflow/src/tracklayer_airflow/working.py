"""The work of a tracked operator's task: inside a stage run where that can be, and done once whatever happens.

Nothing of tracklayer's core is imported here before it is known that something may be tracked.
"""

from __future__ import annotations

import copy
import logging
from functools import lru_cache, partial, update_wrapper, wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tracklayer_airflow.untracked import run_untracked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from tracklayer_airflow.operators import Tracked

_Method = TypeVar("_Method", bound="Callable[..., Any]")

log = logging.getLogger("tracklayer")

METHODS: Final = ("execute", "resume_execution")
"""By which Airflow has an operator do its work; the last argument of each is the task context."""


class _Here:
    """What tracked operators do in this process."""

    def __init__(self) -> None:
        self.at_work: set[object] = set()
        """The tries whose work is being done: an attribute of their operators would be copied and pickled with them."""
        self.begun: tuple[object, ...] | None = None
        """The try whose work began here last."""


@lru_cache(maxsize=1)
def _here() -> _Here:
    return _Here()


def do(operator: Tracked, context: Mapping[str, Any], work: Callable[[], Any]) -> Any:
    """Do an operator's work, inside a stage run if it can be tracked; return what it returns.

    What belongs to a try that is at work already is inside its run: then it is no more than done. That need not be the same
    operator: Airflow executes a copy, and what was kept of the one before (`execute = operator.execute`) is that one's.

    Args:
        operator: the operator.
        context: Airflow's task context.
        work: what it does.

    Raises:
        BaseException: whatever `work` raises, unchanged.
    """
    here = _here()
    mine = _mine(operator, context)
    if mine in here.at_work:
        return work()
    here.at_work.add(mine)
    try:
        return _how(operator, context, work)()
    finally:
        here.at_work.discard(mine)


def _mine(operator: Tracked, context: Mapping[str, Any]) -> object:
    """What tells a try from others; the operator itself where it is called with no context, as in tests of somebody's."""
    try:
        return place(context["ti"])
    except Exception as error:
        _let_through(error)
        return id(operator)


def _executed(context: Any, operator: Tracked) -> Tracked:
    """The operator that Airflow executes; `operator` where the context does not tell."""
    try:
        executed = context["ti"].task
    except Exception as error:
        _let_through(error)
        return operator
    return executed if isinstance(executed, type(operator)) else operator


def has_begun(ti: Any) -> bool:
    """Whether the work of the try `ti` began in this process, tracked or not."""
    return _here().begun == place(ti)


def forget() -> None:
    """The part of a try that was executed here is over."""
    _here().begun = None


def place(ti: Any) -> tuple[object, ...]:
    """What names the try of a task instance."""
    return (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)


def in_front(kind: type, name: str) -> Callable[..., Any] | None:
    """A method of a tracked class with the run around it; None where that is so already.

    Python finds the method of the class itself, or of one that stands in front of `Tracked`, before it finds ours: the
    operator's work would not come by us, or only the part of it that calls ``super()``.

    Args:
        kind: the class.
        name: one of `METHODS`.
    """
    found = next((vars(one)[name] for one in kind.__mro__ if name in vars(one)), None)
    if getattr(found, "of_tracklayer", False) or getattr(found, "__isabstractmethod__", False):
        return None
    own = vars(kind).get(name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if own is None:
            theirs = getattr(super(kind, self), name)
        else:
            theirs = own.__get__(self, type(self)) if hasattr(type(own), "__get__") else own
        context = kwargs.get("context", args[-1] if args else {})
        return do(self, context, partial(theirs, *args, **kwargs))

    return ours(wraps(found)(method) if callable(found) else method)


def of_instance(operator: Tracked, method: Any) -> Any:
    """What somebody puts in the place of an instance's own `METHODS`, with the run around it.

    Args:
        operator: the instance. Airflow executes a copy of it, which has the same attribute.
        method: what is put there; returned as it is where it comes by us already, or is nothing to call.
    """
    if not callable(method) or getattr(method, "of_tracklayer", False):
        return method
    return ours(_OfInstance(operator, method))


class _OfInstance:
    """What `of_instance` returns; no function, which could not be pickled with its operator."""

    def __init__(self, operator: Tracked, method: Callable[..., Any]) -> None:
        update_wrapper(self, method)
        self._operator = operator
        self._method = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        context = kwargs.get("context", args[-1] if args else {})
        return do(_executed(context, self._operator), context, partial(self._method, *args, **kwargs))

    def __copy__(self) -> Self:
        """A copy in this process is the same one, as of a function."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Of the copied operator: a method is then that one's, and a function itself."""
        operator = copy.deepcopy(self._operator, memo)
        if (made := memo.get(id(self))) is not None:  # with the operator, whose attribute it is
            return made
        return of_instance(operator, copy.deepcopy(self._method, memo))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """In another process it is made anew, for the operator there."""
        return of_instance, (self._operator, self._method)


def ours(method: _Method) -> _Method:
    """Mark a method as one that does its work by `do`."""
    vars(method)["of_tracklayer"] = True
    return method


def _how(operator: Tracked, context: Mapping[str, Any], work: Callable[[], Any]) -> Callable[[], Any]:
    """The work, tracked or not. Core is imported only where it may be tracked."""
    try:
        from tracklayer_airflow.switch import is_on, is_spoken_of_in_task

        _here().begun = place(context["ti"]) if "ti" in context else None
        on = is_on()
        if on and is_spoken_of_in_task():
            from tracklayer_airflow.execution import run_tracked

            return partial(run_tracked, operator, context, work)
    except Exception as error:
        # A broken installation of tracklayer, or a wrong switch, is no reason for the task to fail.
        _let_through(error)
        log.warning("tracking: the task runs untracked", exc_info=True)
        on = False
    return partial(run_untracked, operator, work, on=on)


def _let_through(error: BaseException) -> None:
    """Raise it again if a signal handler of the task's raised it (a time-out), so far as core is there to tell."""
    try:
        from tracklayer.interruption import let_through
    except Exception:
        log.debug("tracking: tracklayer's core cannot be imported", exc_info=True)
        return
    let_through(error)
