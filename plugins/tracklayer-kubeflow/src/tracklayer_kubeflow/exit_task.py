"""An exit task that ends the pipeline run's parent with KFP's own word on how the run ended."""

# KFP reads a component's annotations as they are, not as text: no ``from __future__ import annotations`` here.

from typing import Any


def finish_component(*, base_image: str, packages_to_install: list[str] | None = None, **options: Any) -> Any:
    """A component for ``dsl.ExitHandler`` that ends the parent as KFP says that the run ended.

    The tasks of a tracked pipeline close its parent by themselves. This is for those who want it from KFP: it knows
    also of failures of untracked tasks, and of tasks that died without a word::

        finish = finish_component(base_image="registry.example.com/ml/base:1")

        @tracked_pipeline
        @dsl.pipeline
        def churn():
            with dsl.ExitHandler(finish()):
                train()

    KFP allows exit handlers only around what has no pipeline outputs, and not within each other.

    Args:
        base_image: an image that holds ``tracklayer-kubeflow``, unless `packages_to_install` names it.
        packages_to_install: see ``dsl.component``.
        options: other options of ``dsl.component``.
    """
    from kfp import dsl

    @dsl.component(base_image=base_image, packages_to_install=packages_to_install, **options)  # type: ignore[untyped-decorator]
    def finish_pipeline_run(status: dsl.PipelineTaskFinalStatus) -> None:
        """End the MLflow run of this pipeline run."""
        from tracklayer_kubeflow.finishing import finish

        finish(status.state, status.error_message)

    return finish_pipeline_run
