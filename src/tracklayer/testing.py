"""A conformance kit for plugin authors: what every plugin must hold to, as checks that any test runner can call.

For any plugin: `check_hooks` (its hookimpls fit the specs), `check_import` (it costs nothing to import) and
`plugin_manager` (a manager of the test's own, with just the plugins that it is given).

For an orchestrator's plugin: describe, in a class like `Orchestrator`, how to run one small workflow whose tasks call
`step`; `run_story` runs it, and each of `CHECKS` looks at one thing that was seen in the tasks and at the tracking
server. With pytest::

    @pytest.fixture(scope="module")
    def evidence(mlflow_uri, tmp_path_factory):
        return run_story(MyOrchestrator(), tmp_path_factory.mktemp("story"), mlflow_uri)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conforms(check, evidence):
        check(evidence)

The checks raise `AssertionError` with a message that says what is wrong.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pluggy

from tracklayer import hookspecs
from tracklayer.context import RunContext
from tracklayer.identity import PARENT_TAG, SUPERSEDED_TAG, key_tag, member_tag, parse_token, run_key, upstream_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tracklayer.store import Run

HEAVY: Final = ("mlflow", "urllib3", "requests", "httpx", "pandas", "numpy")
"""What no plugin may import when it is imported itself; its orchestrator's own package may come on top of it."""

RETRIES: Final = "retries"
"""Name of a file in the kit's folder that says that ``train`` is to fail at first."""

# --------------------------------------------------------------------------------------------------------------------
# Any plugin
# --------------------------------------------------------------------------------------------------------------------


def plugin_manager(*plugins: object) -> pluggy.PluginManager:
    """A plugin manager with these plugins and no other: nothing is looked for, nothing stays behind.

    Args:
        plugins: modules or objects with hookimpls; the last one is asked first.

    Raises:
        pluggy.PluginValidationError: one of them does not fit the hooks.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for plugin in plugins:
        manager.register(plugin)
    manager.check_pending()
    return manager


def check_hooks(plugin: object) -> None:
    """The plugin implements at least one hook, each with arguments that the spec has, and forgot no marker."""
    manager = plugin_manager(plugin)
    implemented = {caller.name for caller in manager.get_hookcallers(plugin) or []}
    assert implemented, f"{plugin!r} implements no hook"
    meant = {name for name in dir(plugin) if name.startswith("tracklayer_") and callable(getattr(plugin, name))}
    assert meant <= implemented, f"not marked with @hookimpl: {', '.join(sorted(meant - implemented))}"


def check_import(module: str, *, heavy: Sequence[str] = HEAVY) -> None:
    """Importing `module` in a new interpreter imports none of the packages in `heavy`."""
    script = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script, module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{module} cannot be imported:\n{done.stderr}"
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert not loaded & set(heavy), f"importing {module} imports {', '.join(sorted(loaded & set(heavy)))}"


def check_outside(plugin: object) -> None:
    """Where the orchestrator runs nothing, its plugin says so: here, wherever this is called, is no task of it."""
    caller = plugin_manager(plugin).hook.tracklayer_run_context
    assert caller.get_hookimpls(), f"{plugin!r} does not say where code runs: tracklayer_run_context is missing"
    found = caller()
    assert found is None, f"outside of the orchestrator the run context must be None, not {found!r}"


# --------------------------------------------------------------------------------------------------------------------
# An orchestrator's plugin: a story to run
# --------------------------------------------------------------------------------------------------------------------


class Orchestrator(Protocol):
    """How to run the kit's workflow in one orchestrator.

    The workflow has four tasks, all tracked; each calls `step` with its own name and returns what `step` returns:

    ``prepare``
        stage ``data-prep``.
    ``train``
        stage ``training``, after ``prepare`` and fed by it; its first try fails, so it needs one retry.
    ``score``
        mapped over the items ``"a"`` and ``"b"``, which it passes to `step`.
    ``broken``
        fails. The workflow run, and the call of `run`, must live with that.

    Attributes:
        name: the orchestrator's name in `tracklayer.WorkflowRun`.
        retries: False if it cannot retry tasks; ``train`` then succeeds at once.
        maps: False if it cannot map tasks; ``score`` is then left out.
    """

    name: str
    retries: bool
    maps: bool

    def run(self, folder: Path, tracking_uri: str) -> None:
        """Run the workflow once, to its end, tracked at `tracking_uri`.

        Args:
            folder: what `step` needs; may also hold whatever the orchestrator keeps.
            tracking_uri: a tracking server, or any URI that tracklayer takes.
        """


def step(name: str, folder: str | Path, item: str | None = None) -> str:
    """What a task of the kit's workflow does: write down where it thinks it runs, and fail where the story wants it.

    Args:
        name: the task's name in `Orchestrator`.
        folder: as given to `Orchestrator.run`.
        item: the item that a mapped task got.

    Returns:
        A text, to be handed on as the task's result.
    """
    from tracklayer import registry, settings
    from tracklayer.current import ATTACH_VARIABLE, current_run

    run = current_run()
    hooked = registry.load(settings.load()).hook.tracklayer_run_context()
    known = isinstance(hooked, RunContext)
    seen = {
        "task": name,
        "item": item,
        "run_id": run.run_id if run else None,
        "token": run.token if run else None,
        "key": run.key if run else None,
        "workflow_key": run.parent.key if run and run.parent else None,
        "hooked_key": run_key(hooked) if known else None,
        "attached": ATTACH_VARIABLE in os.environ,
        "orchestrator": hooked.workflow_run.orchestrator if known else None,
        "trouble": _trouble(hooked),
    }
    place = Path(folder)
    tries = len(list(place.glob(f"seen-{name}-{item}-*.json"))) + 1
    (place / f"seen-{name}-{item}-{tries}.json").write_text(json.dumps(seen), encoding="utf-8")
    if name == "broken" or (name == "train" and tries == 1 and (place / RETRIES).exists()):
        raise ValueError(f"{name} fails, as it should")
    return f"{name} is done"


def _trouble(context: object) -> str | None:
    """What is wrong with a context that a hook gave inside of a task; None if nothing is."""
    if not isinstance(context, RunContext):
        return f"the run context is {context!r}"
    if context.task_run is None:
        return "the run context of a task has no task run"
    if pickle.loads(pickle.dumps(context)) != context:  # noqa: S301 - it was pickled right here
        return "the run context is another one after pickling"
    try:
        context.workflow_run.run_id = "changed"  # type: ignore[misc]  # it must not work
    except FrozenInstanceError:
        return None
    return "the run context can be changed"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a run of the kit's workflow has left.

    Attributes:
        orchestrator: that ran it.
        seen: what each try of each task wrote down, see `step`.
        parents: the live runs with the workflow run's key.
        stages: the live stage runs of the workflow run, by run id.
    """

    orchestrator: Orchestrator
    seen: Sequence[Mapping[str, Any]]
    parents: Sequence[Run] = field(default_factory=tuple)
    stages: Mapping[str, Run] = field(default_factory=dict)

    def of(self, task: str) -> list[Run]:
        """The stage runs of a task, oldest first."""
        ids = [told["run_id"] for told in self.seen if told["task"] == task]
        runs = [self.stages[run_id] for run_id in ids if run_id in self.stages]
        return sorted(runs, key=lambda run: run.start_time or 0)


def run_story(orchestrator: Orchestrator, folder: Path, tracking_uri: str) -> Evidence:
    """Run the kit's workflow once and gather what it left, for `CHECKS`."""
    from tracklayer.store.opening import open_store

    if orchestrator.retries:
        (folder / RETRIES).touch()
    orchestrator.run(folder, tracking_uri)
    files = sorted(folder.glob("seen-*.json"), key=lambda path: path.stat().st_mtime_ns)
    seen = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    store = open_store(tracking_uri, connect_timeout=5, timeout=30)
    keys = {told["workflow_key"] for told in seen if told["workflow_key"]}
    parents = [run for key in keys for run in store.search_runs([], f"tags.`{key_tag(key)}` = '1'")]
    members = [run for key in keys for run in store.search_runs([], f"tags.`{member_tag(key)}` != ''")]
    return Evidence(orchestrator=orchestrator, seen=seen, parents=parents, stages={run.run_id: run for run in members})


# --------------------------------------------------------------------------------------------------------------------
# An orchestrator's plugin: what the story must have left
# --------------------------------------------------------------------------------------------------------------------


def check_tasks_ran(evidence: Evidence) -> None:
    """The orchestrator ran the story as it was told: nothing below says anything otherwise."""
    expected = {"prepare": 1, "train": 2 if evidence.orchestrator.retries else 1, "broken": 1}
    expected |= {"score": 2} if evidence.orchestrator.maps else {}
    tasks = [told["task"] for told in evidence.seen]
    ran = {task: tasks.count(task) for task in tasks}
    assert ran == expected, f"tries of tasks that called step(): {ran}, not {expected}"


def check_context_inside(evidence: Evidence) -> None:
    """Inside of a task the hook gives a frozen context that can be pickled, and it names the orchestrator."""
    for told in evidence.seen:
        assert told["trouble"] is None, f"in {told['task']}: {told['trouble']}"
        name = evidence.orchestrator.name
        assert told["orchestrator"] == name, f"in {told['task']}: it is {told['orchestrator']!r}, not {name!r}"


def check_keys(evidence: Evidence) -> None:
    """Every try and every mapped item has a key of its own, and the hook derives the one that the run was opened with.

    (Not where a supervisor opened it and the task's process is attached to it.) All of them are of one workflow run.
    """
    keys = [told["key"] for told in evidence.seen]
    assert len(set(keys)) == len(keys), f"two tries or items share a key: {sorted(map(str, keys))}"
    for told in evidence.seen:
        same = told["attached"] or told["hooked_key"] == told["key"]
        assert same, f"{told['task']}: {told['hooked_key']} by the hook, {told['key']} on its run"
    workflow_runs = {told["workflow_key"] for told in evidence.seen}
    assert len(workflow_runs) == 1, f"tasks disagree about their workflow run: {sorted(map(str, workflow_runs))}"


def check_one_parent(evidence: Evidence) -> None:
    """There is exactly one parent, it has ended, and every stage run is right below it."""
    assert len(evidence.parents) == 1, f"{len(evidence.parents)} parents: {[run.run_id for run in evidence.parents]}"
    (parent,) = evidence.parents
    assert parent.status != "RUNNING", "the workflow run has ended, and its parent is RUNNING"
    for told in evidence.seen:
        run = evidence.stages.get(told["run_id"])
        assert run is not None, f"{told['task']} has no stage run in this workflow run"
        assert run.tags.get(PARENT_TAG) == parent.run_id, f"{told['task']} is not below the parent"


def check_endings(evidence: Evidence) -> None:
    """Every run ended as its task did; an earlier try is marked as superseded by the later one."""
    train = ["FAILED", "FINISHED"] if evidence.orchestrator.retries else ["FINISHED"]
    expected = {"prepare": ["FINISHED"], "train": train, "broken": ["FAILED"]}
    expected |= {"score": ["FINISHED", "FINISHED"]} if evidence.orchestrator.maps else {}
    statuses = {task: [run.status for run in evidence.of(task)] for task in expected}
    assert statuses == expected, f"runs ended as {statuses}, not as {expected}"
    (broken,) = evidence.of("broken")
    kind = broken.tags.get("tracklayer.error.type")
    assert kind == "ValueError", f"the error of broken is told as {kind!r}"
    if evidence.orchestrator.retries:
        first, second = evidence.of("train")
        superseded_by = first.tags.get(SUPERSEDED_TAG)
        assert superseded_by == second.run_id, f"the first try of train is superseded by {superseded_by!r}"


def check_links(evidence: Evidence) -> None:
    """What ``prepare`` made is found by the tries of ``train`` that it feeds, without anybody passing a token."""
    (prepare,) = evidence.of("prepare")
    for run in evidence.of("train"):
        assert upstream_tag(prepare.run_id) in run.tags, f"{run.name} is not linked to prepare"


def check_tokens(evidence: Evidence) -> None:
    """Every stage run has a token that can be read, and names that run and its parent."""
    for told in evidence.seen:
        token = parse_token(told["token"] or "")
        assert token.run.run_id == told["run_id"], f"the token of {told['task']} names {token.run.run_id}"
        parents = [run.run_id for run in evidence.parents]
        assert token.parent is not None, f"the token of {told['task']} names no parent"
        assert token.parent.run_id in parents, f"the token of {told['task']} names another parent"


CHECKS: Final[tuple[Callable[[Evidence], None], ...]] = (
    check_tasks_ran,
    check_context_inside,
    check_keys,
    check_one_parent,
    check_endings,
    check_links,
    check_tokens,
)
"""All checks of the evidence of `run_story`."""
