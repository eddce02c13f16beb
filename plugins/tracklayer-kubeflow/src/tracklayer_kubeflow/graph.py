"""The tasks of a compiled pipeline, in the order and nesting that its specification gives them.

Works on the specification as a dictionary (KFP's intermediate representation, as in the YAML file), so it needs
nothing of kfp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tracklayer_kubeflow.command import is_supervised
from tracklayer_kubeflow.facts import TaskFacts

Spec = Mapping[str, Any]

_CONTROL: Final = re.compile(r"(?:for-loop|condition|condition-branches|exit-handler)-\d+")
"""Names that the compiler gives to control-flow groups. They are no part of a task's name: task names are unique in
a pipeline whatever the groups."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A task that runs a container."""

    executor: str
    name: str
    loops: tuple[str, ...]
    optional: bool
    tries: int
    producers: frozenset[str]
    followed: bool


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a DAG stands within the pipeline."""

    pipelines: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()
    optional: bool = False
    followed: bool = False
    tries: int = 1
    inputs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """For each input of the DAG, the names of the tasks that made it."""


def tasks(spec: Spec) -> dict[str, TaskFacts]:
    """The facts about every supervised task.

    Args:
        spec: a pipeline's specification.

    Returns:
        Facts by executor label; KFP's compiler gives each task an executor of its own.
    """
    leaves = {leaf.executor: leaf for leaf in _Graph(spec).leaves(spec["root"].get("dag", {}), _Scope())}
    by_name = {leaf.name: leaf for leaf in leaves.values()}
    ends = [leaf for leaf in leaves.values() if not leaf.followed]
    one_end = len(ends) == 1 and not ends[0].optional
    found = {}
    for leaf in leaves.values():
        after = sorted(name for name in leaf.producers if name in by_name and _feeds(by_name[name], leaf))
        found[leaf.executor] = TaskFacts(
            task=leaf.name,
            loop=bool(leaf.loops),
            tries=leaf.tries,
            optional=leaf.optional,
            ends=not leaf.followed,
            one_end=one_end,
            after=tuple(after),
            before_loop=tuple(name for name in after if leaf.loops and not by_name[name].loops),
        )
    return found


def _feeds(producer: _Leaf, consumer: _Leaf) -> bool:
    """True if it can be told which runs of `producer` feed one run of `consumer`: that of the same iteration, or all."""
    return not consumer.loops or producer.loops == consumer.loops[: len(producer.loops)]


def executors(spec: Spec) -> dict[str, dict[str, Any]]:
    """The containers of every supervised executor, by label."""
    found = spec.get("deploymentSpec", {}).get("executors", {})
    return {
        label: executor["container"]
        for label, executor in found.items()
        if is_supervised(executor.get("container", {}).get("command", ()))
    }


class _Graph:
    def __init__(self, spec: Spec) -> None:
        self._components: Mapping[str, Any] = spec.get("components", {})
        self._supervised = executors(spec)

    def leaves(self, dag: Spec, scope: _Scope) -> Iterator[_Leaf]:
        """Every supervised task in `dag` and below."""
        dag_tasks: Mapping[str, Any] = dag.get("tasks", {})
        optional = self._optional(dag_tasks)
        for name, task in dag_tasks.items():
            inner = self._inner(name, task, dag_tasks, scope, optional)
            component = self._component(task)
            if "dag" in component:
                yield from self.leaves(component["dag"], inner)
            elif component.get("executorLabel") in self._supervised:
                yield _Leaf(
                    executor=component["executorLabel"],
                    name=".".join((*scope.pipelines, name)),
                    loops=inner.loops,
                    optional=inner.optional,
                    tries=inner.tries,
                    producers=frozenset().union(*inner.inputs.values()),
                    followed=inner.followed,
                )

    def _component(self, task: Spec) -> Spec:
        component: Spec = self._components[task["componentRef"]["name"]]
        return component

    def _inner(self, name: str, task: Spec, dag_tasks: Spec, scope: _Scope, optional: frozenset[str]) -> _Scope:
        """The scope of what is in the task `name`."""
        is_loop = "parameterIterator" in task or "artifactIterator" in task
        retries = int(task.get("retryPolicy", {}).get("maxRetryCount", 0))
        return _Scope(
            pipelines=scope.pipelines if _CONTROL.fullmatch(name) else (*scope.pipelines, name),
            loops=(*scope.loops, ".".join((*scope.pipelines, name))) if is_loop else scope.loops,
            optional=scope.optional or name in optional,
            followed=scope.followed or self._is_followed(name, dag_tasks, optional),
            tries=max(scope.tries, 1 + max(retries, 0)),
            inputs=self._inputs(task, dag_tasks, scope),
        )

    def _optional(self, dag_tasks: Spec) -> frozenset[str]:
        """Tasks that may not run: loops (over nothing), conditions, and what comes after them."""
        found: set[str] = set()
        pending = True
        while pending:
            pending = False
            for name, task in dag_tasks.items():
                conditional = "condition" in task.get("triggerPolicy", {})
                loops = "parameterIterator" in task or "artifactIterator" in task
                always = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
                skipped = not always and any(before in found for before in _before(task) if self._is_branch(before))
                if name not in found and (conditional or loops or skipped):
                    found.add(name)
                    pending = True
        return frozenset(found)

    @staticmethod
    def _is_branch(name: str) -> bool:
        # What follows a loop runs also if the loop had no items; what follows a condition does not if that was false.
        return not name.startswith("for-loop-")

    def _is_followed(self, name: str, dag_tasks: Spec, optional: frozenset[str]) -> bool:
        """True if a supervised task that certainly runs comes after the task `name` in the same DAG."""
        after = {other for other, task in dag_tasks.items() if name in _before(task)}
        return any(
            (other not in optional and self._tracks(dag_tasks[other])) or self._is_followed(other, dag_tasks, optional)
            for other in after
        )

    def _tracks(self, task: Spec) -> bool:
        """True if a supervised task certainly runs in the task."""
        component = self._component(task)
        if "dag" not in component:
            return component.get("executorLabel") in self._supervised
        inner = component["dag"].get("tasks", {})
        optional = self._optional(inner)
        return any(self._tracks(other) for name, other in inner.items() if name not in optional)

    def _inputs(self, task: Spec, dag_tasks: Spec, scope: _Scope) -> dict[str, frozenset[str]]:
        """For each input of the task, the names of the tasks that made it."""
        given = task.get("inputs", {})
        both = {**given.get("artifacts", {}), **given.get("parameters", {})}
        found = {name: self._makers(value, dag_tasks, scope) for name, value in both.items()}
        iterator = task.get("parameterIterator") or task.get("artifactIterator")
        if iterator:  # the items of a loop over an output
            items = iterator.get("items", {})
            source = items.get("inputParameter") or items.get("inputArtifact")
            found[iterator["itemInput"]] = found.get(source, scope.inputs.get(source, frozenset()))
        return found

    def _makers(self, value: Spec, dag_tasks: Spec, scope: _Scope) -> frozenset[str]:
        inherited = value.get("componentInputParameter") or value.get("componentInputArtifact")
        if inherited:
            return scope.inputs.get(inherited, frozenset())
        output = value.get("taskOutputParameter") or value.get("taskOutputArtifact")
        if not output:
            return frozenset()
        key = output.get("outputParameterKey") or output.get("outputArtifactKey")
        producers = [output["producerTask"]] if "producerTask" in output else []
        return frozenset().union(*(self._outputs(name, key, dag_tasks, scope.pipelines) for name in producers))

    def _outputs(self, name: str, key: str, dag_tasks: Spec, pipelines: Sequence[str]) -> frozenset[str]:
        """Names of the tasks that make output `key` of the task `name`, which may be a group or a pipeline."""
        if name not in dag_tasks:
            return frozenset()
        component = self._component(dag_tasks[name])
        if "dag" not in component:
            return frozenset({".".join((*pipelines, name))})
        inner = pipelines if _CONTROL.fullmatch(name) else (*pipelines, name)
        outputs = component["dag"].get("outputs", {})
        selector = {**outputs.get("artifacts", {}), **outputs.get("parameters", {})}.get(key, {})
        chosen = [
            *selector.get("artifactSelectors", ()),
            *selector.get("valueFromOneof", {}).get("parameterSelectors", ()),
            *([selector["valueFromParameter"]] if "valueFromParameter" in selector else []),
        ]
        below = component["dag"].get("tasks", {})
        return frozenset().union(
            *(
                self._outputs(
                    one["producerSubtask"], one.get("outputParameterKey") or one["outputArtifactKey"], below, inner
                )
                for one in chosen
            )
        )


def _before(task: Spec) -> Sequence[str]:
    found: Sequence[str] = task.get("dependentTasks", ())
    return found
