"""The relay: one model's journey through Airflow, Kubeflow Pipelines and Prefect, told in MLflow.

``make demo`` runs ``python -m examples.relay``. It starts a real MLflow server and a real Prefect server, and then
one command, ``airflow dags test flights_prepare``; everything else follows from that: the DAG starts the pipeline,
the pipeline starts the flow, each in a process of its own, each handing its token to the next.
"""
