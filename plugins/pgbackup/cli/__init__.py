"""The verbs for a shell without Airflow: ``pgbackup --help``."""

from pgbackup.cli.app import main

__all__ = ["main"]
