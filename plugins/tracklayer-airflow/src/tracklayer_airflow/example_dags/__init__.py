"""DAGs that show what the provider does; Airflow lists them where ``[core] load_examples`` is set."""
