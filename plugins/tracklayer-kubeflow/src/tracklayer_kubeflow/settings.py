"""The plugin's own settings: the table ``[tool.tracklayer.kubeflow]``, or ``TRACKLAYER_KUBEFLOW_<NAME>``."""

from __future__ import annotations

import msgspec


class KubeflowSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of this plugin.

    Attributes:
        ui_url: address of KFP's pages (``https://kubeflow.example.com/pipeline``), for links to them from MLflow; None
            for no links.
        endpoint: address of KFP's API (``https://kubeflow.example.com/pipeline``), for ``tracklayer reconcile``; None
            takes that of the variable ``KFP_ENDPOINT`` or ``KF_PIPELINES_ENDPOINT``, if one is set where that runs.
        api_token: a token for KFP's API; None leaves it to KFP's own client to log in.
    """

    ui_url: str | None = None
    endpoint: str | None = None
    api_token: str | None = None

    def __repr__(self) -> str:
        shown = (self.ui_url, self.endpoint, "***" if self.api_token else None)
        return "KubeflowSettings(ui_url={!r}, endpoint={!r}, api_token={!r})".format(*shown)

    def run_page(self, run_id: str) -> str | None:
        """The page of a pipeline run; None without `ui_url`."""
        return f"{self.ui_url.rstrip('/')}/#/runs/details/{run_id}" if self.ui_url else None
