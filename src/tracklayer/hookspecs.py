"""Every hook of tracklayer, in the order in which the life of a run calls them.

Implement the ones you need in a module or class, mark them with `hookimpl`, and register it by an entry point of
the group ``tracklayer`` or by ``plugins = ["module:object"]`` in the settings. A hookimpl may take any subset of a
spec's arguments. Hooks receive frozen values (`tracklayer.context`), never clients or orchestrator objects.

Three kinds of hooks:

*resolve*
    Plugins are asked one after the other (last registered first; ``tryfirst`` and ``trylast`` work as in pluggy) and
    the first answer that is not None wins. A failure is a `PluginError` that names plugin and hook; it is logged,
    the next plugin is asked, and tracking goes on.
*collect*
    All answers are merged. What a failing plugin would have added is left out, with a warning.
*notify*
    Everybody is told; failures are logged and never raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import typer

    from tracklayer.context import Link, RunContext, RunRef, State, Status, TaskRun, Upstream, WorkflowRun
    from tracklayer.store import Store

PROJECT = "tracklayer"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

# --------------------------------------------------------------------------------------------------------------------
# Where are we?
# --------------------------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def tracklayer_run_context() -> RunContext | None:
    """Resolve: where is this code running?

    Called once for each stage that is opened without an explicit context (``with tracklayer.track()``) and by
    ``tracklayer doctor``. None means: not inside this orchestrator. If every plugin says None, the code is a
    workflow of its own (a script or a notebook). A plugin that fails is passed over.

    Example:
        ::

            @hookimpl
            def tracklayer_run_context():
                if "MY_JOB_ID" not in os.environ:
                    return None
                run = WorkflowRun(orchestrator="cron", workflow=os.environ["MY_JOB"], run_id=os.environ["MY_JOB_ID"])
                return RunContext(workflow_run=run, task_run=TaskRun(task="main"))
    """


# --------------------------------------------------------------------------------------------------------------------
# What is it called?
# --------------------------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def tracklayer_stage(context: RunContext) -> str | None:
    """Resolve: what is this task for in the life of a model (``data-prep``, ``training``, ``evaluation``, …)?

    Called once for each stage run whose stage the user did not name. None means: no opinion; core then takes the
    task's name. If every plugin fails, so does core.

    Example:
        ::

            @hookimpl
            def tracklayer_stage(context):
                return "training" if context.task_run and context.task_run.task.startswith("train") else None
    """


@hookspec(firstresult=True)
def tracklayer_experiment_name(context: RunContext) -> str | None:
    """Resolve: which experiment holds the run of `context`?

    Called once for each run that is opened, for the workflow-run parent (``context.task_run`` is None) and for the
    stage run. None means: no opinion; core's template (setting ``experiment``) answers last. The answer is made
    valid for MLflow. If a plugin fails, the next one is asked, and at last the template.

    Example:
        ::

            @hookimpl
            def tracklayer_experiment_name(context):
                return f"/Shared/risk/{context.workflow_run.workflow}"
    """


@hookspec(firstresult=True)
def tracklayer_run_name(context: RunContext) -> str | None:
    """Resolve: what is the run of `context` called?

    Called once for each run that is opened. None means: no opinion; core's templates (settings ``run_name`` and
    ``parent_name``) answer last. If a plugin fails, the next one is asked, and at last the template.

    Example:
        ::

            @hookimpl
            def tracklayer_run_name(context):
                return f"{context.stage}-{context.workflow_run.logical_date:%Y%m%d}" if context.task_run else None
    """


# --------------------------------------------------------------------------------------------------------------------
# What is known about it?
# --------------------------------------------------------------------------------------------------------------------


@hookspec
def tracklayer_run_params(context: RunContext) -> Mapping[str, object] | None:
    """Collect: params of the run, before user code starts. Values may nest; they are flattened (``model.lr``).

    Called once for each run that is opened, parents included. None means: nothing to add. A failing plugin's part
    is left out with a warning. Where two plugins give the same name, the one that was registered last wins.

    Example:
        ::

            @hookimpl
            def tracklayer_run_params(context):
                return {"workflow": dict(context.workflow_run.params)} if context.task_run is None else None
    """


@hookspec
def tracklayer_run_tags(context: RunContext) -> Mapping[str, str] | None:
    """Collect: tags of the run. They are part of the request that creates it, so they cost nothing more.

    Called once for each run that is opened, parents included. None means: nothing to add. A failing plugin's part is
    left out with a warning. Where two plugins give the same name, the one that was registered last wins.

    Example:
        ::

            @hookimpl
            def tracklayer_run_tags(context):
                return {"team": "risk", "cost-center": "4711"}
    """


@hookspec
def tracklayer_upstream(context: RunContext) -> Sequence[Upstream] | None:
    """Collect: which stage runs feed this one, as far as the orchestrator hands them over?

    Called once for each stage run, before it is created. None means: none that this plugin knows of. A failing
    plugin's part is left out with a warning. Two answers that name the same run make one link.

    Example:
        ::

            @hookimpl
            def tracklayer_upstream(context):
                token = parse_token(os.environ["MY_PREVIOUS_STEP"])
                return [Upstream(run=token.run)]
    """


# --------------------------------------------------------------------------------------------------------------------
# The run lives
# --------------------------------------------------------------------------------------------------------------------


@hookspec
def tracklayer_run_started(run: RunRef) -> None:
    """Notify: a run (parent or stage run) was created or resumed.

    Called once for each opening, after the tracking server has answered and before user code starts. Not called
    while the server cannot be reached. Failures are logged. Be quick: the task waits.

    Example:
        ::

            @hookimpl
            def tracklayer_run_started(run):
                print("tracking in", run.run_id)
    """


@hookspec
def tracklayer_run_linked(link: Link) -> None:
    """Notify: a link was written, that is, `link.consumer` uses what `link.upstream` made.

    Called once for each link. Failures are logged.

    Example:
        ::

            @hookimpl
            def tracklayer_run_linked(link):
                print(link.consumer.name, "<-", link.upstream.run.run_id)
    """


@hookspec
def tracklayer_hand_over(context: RunContext, run: RunRef, token: str) -> None:
    """Notify: give the run's token to whatever comes next (XCom, asset event, label, artifact metadata).

    Called once for each stage run when it has been created, so that also tasks that start before it ends can link
    to it. Failures are logged.

    Example:
        ::

            @hookimpl
            def tracklayer_hand_over(context, run, token):
                pathlib.Path("previous-step").write_text(token)
    """


@hookspec
def tracklayer_run_ended(run: RunRef, status: Status) -> None:
    """Notify: a run was ended with `status` (``FINISHED``, ``FAILED`` or ``KILLED``).

    Called once for each end that was written. Failures are logged.

    Example:
        ::

            @hookimpl
            def tracklayer_run_ended(run, status):
                if status == "FAILED":
                    page_somebody(run.name)
    """


# --------------------------------------------------------------------------------------------------------------------
# Around it
# --------------------------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def tracklayer_workflow_state(workflow_run: WorkflowRun) -> State | Status | None:
    """Resolve: what has become of this workflow run, by the orchestrator's own word?

    Called by ``tracklayer reconcile`` for workflow runs of which something is open in MLflow, in whatever process and
    on whatever machine that runs. The workflow run is rebuilt from the tags of its parent: orchestrator, instance,
    workflow and run id are right, ``tags`` holds every tag of the parent run, and all else is unset. None means: not
    mine, or unknown; then nothing is changed. A plain status is short for ``State(status=…)``. ``GONE`` is for what
    the orchestrator had and has deleted; where it may as well be another installation's, the answer is None. A plugin
    that fails is passed over.

    Example:
        ::

            @hookimpl
            def tracklayer_workflow_state(workflow_run):
                if workflow_run.orchestrator != "cron":
                    return None
                done = pathlib.Path(f"/var/run/{workflow_run.run_id}.ok")
                if not done.exists():
                    return State(status="RUNNING")
                return State(status="FINISHED", ended_at=datetime.fromtimestamp(done.stat().st_mtime, UTC))
    """


@hookspec(firstresult=True)
def tracklayer_task_state(workflow_run: WorkflowRun, task_run: TaskRun) -> State | Status | None:
    """Resolve: what has become of this one try of a task, by the orchestrator's own word?

    Called by ``tracklayer reconcile`` for stage runs that are open in MLflow. Both values are rebuilt from tags:
    task, index and try number are right, ``task_run.tags`` holds every tag of the stage run, ``workflow_run`` is as in
    `tracklayer_workflow_state`. None means: not mine, unknown, or a part of a task that the orchestrator does not know
    as a task; then the word about the workflow run counts. A plugin that fails is passed over.

    Example:
        ::

            @hookimpl
            def tracklayer_task_state(workflow_run, task_run):
                if workflow_run.orchestrator != "cron":
                    return None
                failed = pathlib.Path(f"/var/run/{workflow_run.run_id}.{task_run.task}.{task_run.try_number}.failed")
                return "FAILED" if failed.exists() else None
    """


@hookspec(firstresult=True)
def tracklayer_store(uri: str) -> Store | None:
    """Resolve: a tracking back end of your own for `uri`.

    Called once for each tracking URI in a process. None means: not mine; core's stores answer last (http and https
    by REST, everything else through the mlflow library). If a plugin fails, the next one is asked.

    Example:
        ::

            @hookimpl
            def tracklayer_store(uri):
                return LedgerStore(uri) if uri.startswith("ledger://") else None
    """


@hookspec
def tracklayer_commands() -> Sequence[typer.Typer] | None:
    """Collect: command groups to add to the command line, each a named ``typer.Typer(name=…)``.

    Called once when ``tracklayer`` is run. None means: none. A failing plugin's commands are left out with a warning.

    Example:
        ::

            @hookimpl
            def tracklayer_commands():
                app = typer.Typer(name="risk", help="The risk team's commands.")
                app.command()(report)
                return [app]
    """
