"""The example DAGs that come with the provider, beside those of the tests."""

from __future__ import annotations

from tracklayer_airflow.example_dags import (  # noqa: F401  # Airflow finds what importing them makes
    example_tracklayer,
    example_tracklayer_observed,
    example_tracklayer_registry,
)
