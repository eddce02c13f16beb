"""`tracked_component`: what stands above ``@dsl.component``."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tracklayer_kubeflow.command import NotAPythonComponent, supervised

if TYPE_CHECKING:
    from collections.abc import Callable

Component = TypeVar("Component")


@overload
def tracked_component(component: Component, /, *, stage: str | None = None) -> Component: ...
@overload
def tracked_component(component: None = None, /, *, stage: str | None = None) -> Callable[[Component], Component]: ...
def tracked_component(component: Any = None, /, *, stage: str | None = None) -> Any:
    """Track every run of a component as a stage run in MLflow.

    Stands above ``@dsl.component``::

        @tracked_component(stage="training")
        @dsl.component(base_image="registry.example.com/ml/train:1")
        def train(learning_rate: float, model: dsl.Output[dsl.Model]): ...

    What ``mlflow`` calls and autologging in the component's code log lands in the stage run, and so does what is
    logged on `tracklayer.current_run`. The component's image must hold ``tracklayer-kubeflow`` (or name it in
    ``packages_to_install``); with one that does not, the component runs untracked.

    Args:
        component: the component; left out when the decorator is called with options.
        stage: what the component is for (``data-prep``, ``training``, ``evaluation``, or a name of your own); None
            leaves it to the plugins, and at last to the task's name.

    Returns:
        A component like the one given, which is not changed.

    Raises:
        TypeError: it does not stand above ``@dsl.component``, or on a component that does not run Python code (a
            container component, a pipeline, an importer).
    """
    if component is None:
        return lambda decorated: tracked_component(decorated, stage=stage)
    if isinstance(component, str):
        raise TypeError(f"name the stage: @tracked_component(stage={component!r})")
    if stage is not None and (not stage.strip() or "{{" in stage):
        raise TypeError(f"a stage must be plain text, not {stage!r}")
    spec = getattr(component, "component_spec", None)
    if spec is None:
        name = getattr(component, "__name__", repr(component))
        raise TypeError(
            f"@tracked_component stands above @dsl.component, and gets what that makes; it was given {name}, "
            f"a {type(component).__name__}"
        )
    container = spec.implementation.container
    if container is None:
        raise TypeError(f"@tracked_component tracks components; {spec.name!r} is none (pipelines: @tracked_pipeline)")
    try:
        command = supervised(container.command or [], stage)
    except NotAPythonComponent as error:
        raise TypeError(f"{spec.name!r} cannot be tracked: {error}") from None
    tracked = copy.copy(component)
    tracked.component_spec = copy.deepcopy(spec)
    tracked.component_spec.implementation.container.command = command
    return tracked
