"""What a tracking store does otherwise inside a stage.

What is written goes into the journal and is delivered from there, so that nobody waits for it and nothing of it is
lost; what is read sees what was written before. Everything that is not here is the stock store's. Where something of
ours goes wrong, it is logged, and the stock call is made; what MLflow refuses, the user gets as from MLflow.

==================  =================================================================================================
`store_calls`       which run is meant, whose it is, how the server is asked: what the others are made of
`log_calls`         params, metrics, tags, inputs
`run_calls`         runs: created (or adopted: the stage run), ended, renamed, deleted
`experiment_calls`  experiments: the server's, or by name while it is away
`read_calls`        what is read
`models`            logged models
==================  =================================================================================================
"""

from __future__ import annotations

from tracklayer.mlflow_plugins.models import ModelCalls
from tracklayer.mlflow_plugins.read_calls import ReadCalls
from tracklayer.mlflow_plugins.run_calls import RunCalls


class StageCalls(ModelCalls, RunCalls, ReadCalls):
    """Stands before a stock store's class, of which the rest is."""
