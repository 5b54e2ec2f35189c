"""The one file that Airflow's plugin loader executes: registers the Recovery page."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/pgbackup"
BUNDLE = f"{PREFIX[1:]}/static/page.js"  # relative: Airflow may be served under a path


class PgBackupPlugin(AirflowPlugin):
    """A page in the navigation, a tile on Home, a tab on our DAGs; ``base`` hides the tab on foreign ones.

    The name is what people read, and under which the bundle registers its component.
    """

    name = "pgbackup"
    react_apps = [  # noqa: RUF012 - as AirflowPlugin has it
        {"name": "Recovery", "bundle_url": BUNDLE, "destination": "nav", "url_route": "recovery"},
        {"name": "Recovery tile", "bundle_url": BUNDLE, "destination": "dashboard", "url_route": "recovery-tile"},
        {"name": "Recovery", "bundle_url": BUNDLE, "destination": "dag", "url_route": "recovery-of"},
        {"name": "Recovery tabs", "bundle_url": BUNDLE, "destination": "base", "url_route": "recovery-tabs"},
    ]

    @property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        """Imported by the API server alone."""
        from pgbackup_airflow.page.app import app  # noqa: PLC0415

        return [{"app": app, "url_prefix": PREFIX, "name": "pgbackup"}]
