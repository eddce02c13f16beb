"""`tracked_pipeline`: what stands above ``@dsl.pipeline``."""

from __future__ import annotations

import inspect
import logging
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, overload

from google.protobuf import json_format
from kfp.dsl import graph_component, pipeline_context
from kfp.pipeline_spec import pipeline_spec_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tracklayer_kubeflow.facts import PipelineFacts

PARENT_VARIABLE = "TRACKLAYER_PARENT"

log = logging.getLogger("tracklayer")


class TrackedPipeline(graph_component.GraphComponent):  # type: ignore[misc]  # kfp has no types
    """A pipeline that KFP compiles and runs as ever, with what its tasks need to be tracked. See `tracked_pipeline`."""

    def __init__(
        self,
        pipeline: graph_component.GraphComponent,
        *,
        environment: Mapping[str, str],
        secrets: Mapping[str, tuple[str, str]],
        kubernetes: bool,
    ) -> None:
        self.__dict__.update(vars(pipeline))  # not made anew: the pipeline's function was called once, which is enough
        self._pipeline = pipeline
        self._environment = dict(environment)
        self._secrets = dict(secrets)
        self._kubernetes = kubernetes

    def with_token(self, token: str | None = None) -> TrackedPipeline:
        """The same pipeline, whose runs are linked to the run that `token` names: what triggers it.

        For clusters; a local run finds the token in its own environment. The token goes into the tasks' environment,
        which KFP's cache does not look at, so cached tasks stay cached (as a parameter it would be an input that
        is never the same twice)::

            client.create_run_from_pipeline_func(train.with_token(), arguments={…})

        Args:
            token: None takes that of the current stage run, else what ``TRACKLAYER_PARENT`` says; if there is
                neither, the pipeline is returned as it is.
        """
        if token is None:
            token = _token_here()
        return self._with({**self._environment, PARENT_VARIABLE: token}) if token else self

    def _with(self, environment: Mapping[str, str]) -> TrackedPipeline:
        return TrackedPipeline(
            self._pipeline, environment=environment, secrets=self._secrets, kubernetes=self._kubernetes
        )

    @property
    def pipeline_spec(self) -> Any:
        """The compiled pipeline, with variables for its tracked tasks."""
        from tracklayer_kubeflow import baking

        spec = pipeline_spec_pb2.PipelineSpec()
        spec.CopyFrom(self._pipeline.pipeline_spec)
        with self._fence():
            deployment = baking.bake(self.untracked_spec, {**self._baked, **self._environment})
            spec.deployment_spec.Clear()
            spec.deployment_spec.update(deployment)
        return spec

    @property
    def platform_spec(self) -> Any:
        """Kubernetes' part of the compiled pipeline; KFP's own where the pipeline is not for Kubernetes."""
        from tracklayer_kubeflow import baking, graph

        spec = pipeline_spec_pb2.PlatformSpec()
        spec.CopyFrom(self._pipeline.platform_spec)
        labels = list(graph.executors(self.untracked_spec))
        if not labels or not (self._kubernetes or self._secrets):
            return spec
        with self._fence():
            executors = spec.platforms[baking.KUBERNETES].deployment_spec.executors
            before = {label: json_format.MessageToDict(config) for label, config in executors.items()}
            for label, config in baking.bake_platform(before, labels, self._secrets).items():
                executors[label].Clear()
                executors[label].update(config)
        return spec

    @contextmanager
    def _fence(self) -> Iterator[None]:
        """Keep what is wrong with tracking from the pipeline's author: it compiles all the same."""
        try:
            yield
        except Exception as error:
            log.warning(
                "the tasks of pipeline %r will find out less about it: %s: %s", self.name, type(error).__name__, error
            )

    @property
    def facts(self) -> PipelineFacts:
        """What the definition says of the pipeline; the source is a path of this machine."""
        from tracklayer_kubeflow.facts import PipelineFacts

        name = self._pipeline.pipeline_spec.pipeline_info.name
        return PipelineFacts(name=name, description=self.description, source=self._source)

    @cached_property
    def untracked_spec(self) -> dict[str, Any]:
        """The compiled pipeline as KFP makes it, as a dictionary."""
        found: dict[str, Any] = json_format.MessageToDict(self._pipeline.pipeline_spec)
        return found

    @cached_property
    def code_tags(self) -> dict[str, str]:
        """Tags that name the code version; asked for when the pipeline is first compiled or run."""
        from tracklayer_kubeflow import baking

        return baking.code_tags(self.facts)

    @cached_property
    def _baked(self) -> dict[str, str]:
        from tracklayer_kubeflow import baking
        from tracklayer_kubeflow.facts import PipelineFacts

        facts = self.facts
        source = baking.relative_source(facts.source)
        told = PipelineFacts(name=facts.name, description=facts.description, source=source)
        return baking.common_variables(told, self.code_tags)

    @cached_property
    def _source(self) -> str | None:
        try:
            return inspect.getsourcefile(inspect.unwrap(self.pipeline_func))
        except TypeError:
            return None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A task of the pipeline that is being defined; outside of one, a local run."""
        if pipeline_context.Pipeline.get_default_pipeline() is not None:
            return self._pipeline(*args, **kwargs)
        from tracklayer_kubeflow.local import run_locally

        return run_locally(self, lambda: self._pipeline(*args, **kwargs), args, kwargs)


@overload
def tracked_pipeline(
    pipeline: graph_component.GraphComponent,
    /,
    *,
    environment: Mapping[str, str] | None = None,
    secrets: Mapping[str, tuple[str, str]] | None = None,
    kubernetes: bool | None = None,
) -> TrackedPipeline: ...
@overload
def tracked_pipeline(
    pipeline: None = None,
    /,
    *,
    environment: Mapping[str, str] | None = None,
    secrets: Mapping[str, tuple[str, str]] | None = None,
    kubernetes: bool | None = None,
) -> Callable[[graph_component.GraphComponent], TrackedPipeline]: ...
def tracked_pipeline(
    pipeline: Any = None,
    /,
    *,
    environment: Mapping[str, str] | None = None,
    secrets: Mapping[str, tuple[str, str]] | None = None,
    kubernetes: bool | None = None,
) -> Any:
    """Track every run of a pipeline as one run in MLflow, with its tracked components' stage runs below it.

    Stands above ``@dsl.pipeline``, on the outermost pipeline; those within it are covered::

        @tracked_pipeline
        @dsl.pipeline(name="churn")
        def churn(learning_rate: float = 0.1):
            train(learning_rate=learning_rate)

    The compiled form gets environment variables for the tasks of tracked components: what the pipeline is called,
    which task is which, which code version it was compiled from, and the settings in a settings file.
    Nothing in it changes from run to run, and KFP's cache does not look at it.

    Args:
        pipeline: the pipeline; left out when the decorator is called with options.
        environment: more variables for every tracked task (``{"MLFLOW_TRACKING_URI": "http://mlflow.mlops:5000"}``).
        secrets: variables that Kubernetes secrets fill in: ``{"MLFLOW_TRACKING_TOKEN": ("mlflow", "token")}`` is the
            key ``token`` of the secret ``mlflow``. Credentials belong here, never in `environment`.
        kubernetes: whether tasks learn the id of the pipeline run from their pod, by Kubernetes' downward API; None:
            if ``kfp-kubernetes`` is installed where the pipeline is compiled.

    Returns:
        A pipeline like the one given, for KFP's compiler, client and local runner.

    Raises:
        TypeError: it does not stand above ``@dsl.pipeline``.
        ValueError: a variable in `environment` looks like a secret.
    """
    if pipeline is None:
        return lambda decorated: tracked_pipeline(
            decorated, environment=environment, secrets=secrets, kubernetes=kubernetes
        )
    if not isinstance(pipeline, graph_component.GraphComponent):
        name = getattr(pipeline, "name", None) or getattr(pipeline, "__name__", repr(pipeline))
        raise TypeError(
            f"@tracked_pipeline stands above @dsl.pipeline, and gets what that makes; it was given {name!r}, "
            f"a {type(pipeline).__name__} (components: @tracked_component)"
        )
    if isinstance(pipeline, TrackedPipeline):
        raise TypeError(f"the pipeline {pipeline.name!r} is tracked already")
    if environment:
        _refuse_secrets(environment)
    return TrackedPipeline(
        pipeline,
        environment=environment or {},
        secrets=secrets or {},
        kubernetes=find_spec("kfp.kubernetes") is not None if kubernetes is None else kubernetes,
    )


def _refuse_secrets(environment: Mapping[str, str]) -> None:
    from tracklayer.redaction import Redaction

    redaction = Redaction()
    for name, value in environment.items():
        if redaction.mask(name, value) != value:
            raise ValueError(f"{name} looks like a secret, and the compiled pipeline is no place for one: use secrets=")


def _token_here() -> str | None:
    import os

    from tracklayer.current import current_run

    run = current_run()
    return (run.token if run is not None else None) or os.environ.get(PARENT_VARIABLE)
