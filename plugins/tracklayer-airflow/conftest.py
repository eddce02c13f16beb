"""Modules that import Airflow are not imported by pytest: Airflow makes itself at home wherever it is imported."""

from __future__ import annotations

collect_ignore_glob = [
    "tests/dags*/*",
    "src/tracklayer_airflow/example_dags/*",
    *(f"src/tracklayer_airflow/{name}.py" for name in ("decorators", "links", "operator_class", "operators", "plugin")),
]
