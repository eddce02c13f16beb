"""What MLflow itself loads, by its own plugin points: so that the user's ``mlflow.*`` calls land in the stage run.

======================================  ==============================================================================
entry point                             what it does inside a tracked stage
======================================  ==============================================================================
``mlflow.tracking_store``               `store`: the stock store of the scheme, before which `stage_calls` stands: it
(http, https, sqlite, postgresql,       gives the stage run to the first ``mlflow.start_run()`` and to everything that
mysql, mssql)                           MLflow starts by itself, puts every other run below it, and writes to the
                                        journal what is logged
``mlflow.artifact_repository``          `artifact_repository`: artifacts that cannot be stored now are copied aside
``mlflow.model_registry_store``         `registry_store`: versions of models that are not stored yet
``mlflow.run_context_provider``         `run_context`: parent and tags for runs in any other kind of store
``mlflow.default_experiment_provider``  `experiment`: the stage's experiment where the user chose none
======================================  ==============================================================================

Outside of a stage MLflow does what it does, with two exceptions: an id that was given out while the server was away is
understood everywhere, and the first run of a task that is observed opens its stage (`observing`).

MLflow imports these modules whenever it is imported, so they import next to nothing; the rest follows when a stage
is open. Three private parts of MLflow are looked at, each behind a guard without which things work as in plain MLflow:
the frames of the calling function (`callers`), the stack of active runs (`active_runs`), and the function that makes
its requests (`waiting`). What its server would refuse is checked with MLflow's own private functions (`refusals`).
"""
