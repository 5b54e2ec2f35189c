"""Copies to the other repositories: one mapped task each, retried and red for itself."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseNotifier, Context

from pgbackup.copy import copy_missing, copy_wal
from pgbackup_airflow.operators import ProtocolOperator
from pgbackup_airflow.protocol import settings


class CopyOperator(ProtocolOperator):
    """Bring one repository every backup that it lacks."""

    def __init__(self, *, repository: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.repository = repository

    def execute(self, context: Context) -> list[str]:
        """Return the ids of the backups that were copied."""
        with self.site(context) as site:
            return [copied.backup_id for copied in copy_missing(site, self.cluster, self.repository)]


class CopyWalOperator(CopyOperator):
    """Bring one repository the sealed WAL that it lacks."""

    def execute(self, context: Context) -> Any:
        """Return how many files were copied."""
        with self.site(context) as site:
            return copy_wal(site, self.cluster, self.repository)


class LeftToTheWatch(BaseNotifier):
    """Mails nothing: `wal_watch` tells when a repository is behind, and when it has caught up, once each."""

    def notify(self, context: Context) -> None:
        """Do nothing."""

    def __init__(self, *, cluster: str, procedure: str, succeeded: bool) -> None:
        super().__init__()
        del cluster, procedure, succeeded


def copy_backups(cluster: str) -> list[Any]:
    """Make the tasks that copy a cluster's backups; none where there is only the local repository."""
    return _mapped(CopyOperator, cluster)


def copy_sealed(cluster: str) -> list[Any]:
    """Make the tasks that copy a cluster's WAL."""
    return _mapped(CopyWalOperator, cluster)


def _mapped(operator: type[CopyOperator], cluster: str) -> list[Any]:
    names = list(settings().repositories)
    if not names:
        return []
    mapped = operator.partial(task_id="copy", cluster=cluster, map_index_template="{{ task.repository }}")
    return [mapped.expand(repository=names)]
