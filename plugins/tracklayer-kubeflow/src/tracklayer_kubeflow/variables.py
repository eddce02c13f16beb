"""The environment variables by which a pipeline's definition and place reach the processes of its tasks.

KFP's cache key leaves the environment out, so a task whose variables differ from run to run is still cached.

==============================  ======================================================================================
`PIPELINE`                      `tracklayer_kubeflow.facts.PipelineFacts` as JSON, baked in when the pipeline is compiled
`TASK`                          `tracklayer_kubeflow.facts.TaskFacts` as JSON, baked in
`TAGS`                          tags for every run (git commit and the like) as a JSON object, baked in
`RUN_ID`                        KFP's id of the pipeline run, by the downward API from the pod's labels
`NODE`                          Argo's name of the task's node, by the downward API from the pod's annotations
`LOCAL`                         folder with what a local run of a tracked pipeline hands to its tasks
==============================  ======================================================================================
"""

from __future__ import annotations

from typing import Final

PIPELINE: Final = "TRACKLAYER_KUBEFLOW_PIPELINE"
TASK: Final = "TRACKLAYER_KUBEFLOW_TASK"
TAGS: Final = "TRACKLAYER_KUBEFLOW_TAGS"
RUN_ID: Final = "TRACKLAYER_KUBEFLOW_RUN_ID"
NODE: Final = "TRACKLAYER_KUBEFLOW_NODE"
LOCAL: Final = "TRACKLAYER_KUBEFLOW_LOCAL"

DOWNWARD: Final = {
    RUN_ID: "metadata.labels['pipeline/runid']",
    NODE: "metadata.annotations['workflows.argoproj.io/node-name']",
}
"""Variables that Kubernetes fills in from the pod, and the fields that they come from."""

RETRY_INDEX: Final = "KFP_RETRY_INDEX"
"""KFP's own: 0 for the first try of a task that may be retried; absent for others, and with older back ends."""
