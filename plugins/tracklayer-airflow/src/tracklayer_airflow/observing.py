"""Tasks that are observed: their code calls MLflow by itself, and what it starts there becomes the task's run.

Heard in the task's own process, before the task runs and after it has ended. Before, no more is done than to say that
somebody listens; the rest waits until the code creates a run (see `tracklayer.observation`).
"""

from __future__ import annotations

import logging
import sys
import threading
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pluggy

from tracklayer_airflow.afterwards import RUNNER
from tracklayer_airflow.callbacks import call_first
from tracklayer_airflow.supervisor import catch_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.observation import Followed
    from tracklayer.outcome import Outcome
    from tracklayer.settings import Settings
    from tracklayer.stage import StageRun
    from tracklayer_airflow.rules import Rules

hookimpl = pluggy.HookimplMarker("airflow")

log = logging.getLogger("tracklayer")


class TaskListener:
    """Follows the tasks that the rules choose; those of tracked operators follow themselves."""

    def __init__(self, rules: Rules, settings: Settings) -> None:
        """Follow nothing yet.

        Args:
            rules: which tasks are observed.
            settings: how, as they are before code of a task's runs: that may change variables and the working folder, and
                ``mlflow.set_tracking_uri`` does. Runs in another server are not the task's, and its DAG run has one parent.
        """
        self._rules = rules
        self._settings = settings
        self._place: tuple[object, ...] | None = None
        self._begun: tuple[object, ...] | None = None

    @hookimpl
    def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None:  # noqa: ARG002  # Airflow's
        """A task is about to be executed, in this process."""
        try:
            self._place = followed().ti = followed().run = None
            self._begun = _place(task_instance)
            if _follow(task_instance, self._rules, self._settings):
                self._place = _place(task_instance)
                followed().ti = task_instance
                _pass_token(task_instance, self._rules)
        except Exception:  # a broken installation of tracklayer is no reason for the task to fail
            log.warning("tracking: the task is not observed", exc_info=True)
            self._follow_nothing()

    @hookimpl
    def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:  # noqa: ARG002  # Airflow's
        """A task has succeeded."""
        self._ended(task_instance, None, skipped=False)

    @hookimpl
    def on_task_instance_skipped(self, previous_state: Any, task_instance: Any) -> None:  # noqa: ARG002  # Airflow's
        """A task has skipped itself."""
        self._ended(task_instance, None, skipped=True)

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:  # noqa: ARG002
        """A try of a task has failed, for good or to be tried again."""
        self._ended(task_instance, error or "the task failed", skipped=False)

    @hookimpl
    def before_stopping(self, component: Any) -> None:
        """The task's process is about to end: what nobody has ended goes on in another one (a deferral, a reschedule)."""
        if type(component).__name__ != RUNNER:
            return
        self._begun = None
        catch_up()
        if self._place is not None:
            self._over(_left_open, None)

    def _follow_nothing(self) -> None:
        """Take back what was left of an observation: nobody would end the run that the task's code creates."""
        self._place = followed().ti = None
        try:
            from tracklayer.observation import observe

            observe(None)
        except Exception:
            log.debug("tracking: tracklayer's core cannot be imported", exc_info=True)

    def _ended(self, task_instance: Any, error: Any, *, skipped: bool) -> None:
        # The same hooks are called in the scheduler and in the API server, for tasks that nobody follows there.
        if type(task_instance).__module__.startswith("airflow.models"):
            return
        catch_up()  # before the run is ended: links are among it
        if self._place is not None and self._place == _place(task_instance):
            self._over(partial(_end, task_instance, self._rules, self._settings, skipped=skipped), error)
        elif self._begun != _place(task_instance) and (skipped or error is not None):
            followed().ti = task_instance
            self._over(partial(_end_before, task_instance, self._rules, self._settings, skipped=skipped), error)

    def _over(self, how: Any, error: Any) -> None:
        self._place = None
        try:
            how(error)
        except Exception:
            log.warning("tracking: the run of an observed task was not ended", exc_info=True)
        finally:
            followed().ti = followed().run = None


class _Followed:
    """The task instance that is followed in this process, and its run; None if none is, or has one yet."""

    def __init__(self) -> None:
        self.ti: Any = None
        self.run: StageRun | None = None


@lru_cache(maxsize=1)
def followed() -> _Followed:
    """The one of this process, until it has ended."""
    return _Followed()


def _place(ti: Any) -> tuple[object, ...]:
    return (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)


def _follow(ti: Any, rules: Rules, settings: Settings) -> bool:
    """Leave word that the task is observed; False if it is not."""
    from tracklayer.observation import Observation, observe

    observe(None)
    if not rules.observe_task(ti.task, ti.task.dag):
        return False
    _without_link(ti.task)
    observe(Observation(partial(_described, ti, rules, settings), partial(_opened, ti)))
    call_first(ti, partial(_announce, ti, settings))
    return True


def _pass_token(ti: Any, rules: Rules) -> None:
    """Have a task that triggers a DAG run put a token into its conf: its own, if it gets a run, else the nearest one upstream."""
    if not rules.pass_tokens or not hasattr(ti.task, "trigger_dag_id"):
        return
    try:
        from tracklayer.observation import current_observation
        from tracklayer_airflow import macros
        from tracklayer_airflow.carriers import conf_with

        observation = current_observation()
        if rules.own_runs and observation is not None and observation.awaits:
            observation.open()
        token = macros.token(ti)
        conf = conf_with(ti.task.conf, token) if token else None
        if conf is not None:
            ti.task.conf = conf
    except Exception:
        log.warning("tracking: the DAG run that %s triggers is not told of its run", ti.task_id, exc_info=True)


def _without_link(operator: Any) -> None:
    """Take the link of this very instance away: Airflow would store an empty one at the end of a task without a run."""
    from tracklayer_airflow.policy import is_ours

    links = operator.operator_extra_links
    if any(is_ours(link) for link in links):
        operator.operator_extra_links = tuple(link for link in links if not is_ours(link))


def _described(ti: Any, rules: Rules, settings: Settings, *, begun: bool = True) -> Followed | None:
    """Where the task runs, asked when its code first uses MLflow; None if its stage is not observed.

    Args:
        ti: the task instance.
        rules: which tasks are observed.
        settings: how.
        begun: False if Airflow has not come so far as to execute the operator, which may not be rendered then.
    """
    from tracklayer import dispatch, registry
    from tracklayer.observation import Followed
    from tracklayer_airflow import place

    context = place.run_context(ti.get_template_context(), settings)
    if not begun:
        context = place.without_templates(context)
    if rules.stages:
        stage = dispatch.stage(registry.load(settings), context, strict=settings.on_error == "raise")
        if not rules.observe_stage(stage or ti.task_id):
            return None
    return Followed(context=context, settings=settings)


def _opened(ti: Any, run: StageRun) -> None:
    """The task's run is there: its page is linked from the task's, and that of the parent from the DAG run's."""
    from tracklayer.backend import page_url
    from tracklayer.provisional import is_provisional
    from tracklayer_airflow import place
    from tracklayer_airflow.links import push_url
    from tracklayer_airflow.workflow import PARENT_URL_XCOM

    if not place.same(run.context, {"ti": ti}):  # the code may say that it is somewhere else
        return
    followed().run = run
    if run.url is None:
        return
    push_url(ti, run.url)
    if run.parent is not None and not is_provisional(run.parent.run_id):
        url = page_url(run.settings, run.tracking_uri or "", run.parent)
        if url is not None:
            push_url(ti, url, PARENT_URL_XCOM)


def _announce(ti: Any, settings: Settings, error: Any, skipped: bool) -> None:
    """Say how the task's run will end, if it has one: what the user has asked to be called comes first."""
    from tracklayer.observation import current_observation

    catch_up()
    observation = current_observation()
    if observation is not None:
        if observation.awaits and _was_left_open(ti, ti.get_template_context(), settings):
            observation.open()
        outcome = _outcome(error, skipped=skipped)
        failure = error if outcome.status in {"FAILED", "KILLED"} else None
        ended_at = getattr(ti, "end_date", None)
        observation.announce_end(outcome.status, note=outcome.note, error=failure, ended_at=ended_at)


def _end(ti: Any, rules: Rules, settings: Settings, error: Any, *, skipped: bool) -> None:
    """End the task's run as the task ended; one that another process has left open, too, or one of its own."""
    from tracklayer.observation import current_observation, observe

    observation = current_observation()
    if observation is None:
        return
    if observation.awaits:
        task = ti.get_template_context()
        if rules.own_runs or _was_left_open(ti, task, settings):
            observation.open()
    if observation.run is not None:
        outcome = _outcome(error, skipped=skipped)
        failed = outcome.status in {"FAILED", "KILLED"}
        if not failed:
            _link_awaited(ti, observation.run)
        # What the user has asked to be called at the end has been by now, however long that took: meanwhile the DAG run may
        # have ended.
        ended_at = getattr(ti, "end_date", None)
        observation.end(outcome.status, note=outcome.note, error=error if failed else None, ended_at=ended_at)
    observe(None)


def _end_before(ti: Any, rules: Rules, settings: Settings, error: Any, *, skipped: bool) -> None:
    """Give a try a run of its own that was over before its code could begin, where tasks without a run get one.

    Or end the one that an earlier part of it has begun: it was deferred, and its template cannot be rendered once more.

    Of a template that cannot be rendered, or an asset that is not active, the listener is told nothing before. Airflow has
    stored an empty link for it by then.
    """
    from tracklayer.observation import Observation, observe
    from tracklayer_airflow.links import take_url
    from tracklayer_airflow.policy import is_ours

    if not rules.observe_task(ti.task, ti.task.dag):
        return
    if not rules.own_runs and not _was_left_open(ti, ti.get_template_context(), settings):
        if any(is_ours(link) for link in ti.task.operator_extra_links):
            take_url(ti)
        return
    observe(Observation(partial(_described, ti, rules, settings, begun=False), partial(_opened, ti)))
    _end(ti, rules, settings, error, skipped=skipped)


def _link_awaited(ti: Any, run: StageRun) -> None:
    """Link a sensor's run to what it has waited for in another DAG. Most tasks are no such sensor."""
    from tracklayer.fence import fence
    from tracklayer_airflow import awaited

    with fence("linking what the task has waited for", run.settings.on_error):
        for upstream in awaited.upstream(ti.task, ti.get_template_context()):
            run.link(upstream)


def _left_open(error: Any) -> None:  # noqa: ARG001  # there is none
    from tracklayer.observation import current_observation, observe

    observation = current_observation()
    if observation is not None:
        observation.end("RUNNING")
    observe(None)


def _outcome(error: Any, *, skipped: bool) -> Outcome:
    from tracklayer.outcome import Outcome
    from tracklayer_airflow.outcome import of_task

    if isinstance(error, BaseException):
        return of_task(error)
    if error is not None:
        return Outcome("FAILED")
    return Outcome("FINISHED", "skipped" if skipped else None)


def _was_left_open(ti: Any, task: Mapping[str, Any], settings: Settings) -> bool:
    """Whether an earlier part of this very try has started a run that nobody has ended.

    After a deferral its token is there. A reschedule takes XComs away; then the server is asked, if this part of the
    try has to do with MLflow at all.
    """
    from tracklayer_airflow import workflow

    if not workflow.resumed(task):  # as most tasks are not, for which nothing else is imported
        return False
    from tracklayer_airflow import place, upstream

    if upstream.own_token(ti) is not None:
        return True
    if "mlflow" not in sys.modules:
        return False
    from tracklayer.identity import key_tag, run_key

    return _is_there(key_tag(run_key(place.run_context(task, settings))), settings)


def _is_there(tag: str, settings: Settings) -> bool:
    """Whether there is a run with the tag; False also if the server does not say so in time.

    The store's own time-outs are for deliveries in the background, and much longer than a task may be kept waiting.
    """
    from tracklayer.tracking import find_run

    found: list[object] = []
    asking = threading.Thread(target=lambda: found.append(find_run(tag, settings=settings)), daemon=True)
    asking.start()
    asking.join(settings.patience)
    return bool(found) and found[0] is not None
