"""Airflow's connections, as what the engine needs."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from pgbackup.assembly import build_site, load_settings, service_parameters
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import S3, Connection, Settings
from pgbackup.store import client_config

_NOT_LIBPQ = frozenset({"cursor", "iam", "redshift", "cluster-identifier", "workgroup-name", "aws_conn_id", "options"})


class PgBackupHook(BaseHook):
    """Builds the engine's Site for one task; passwords are masked in its log before anything can print them.

    A cluster's needs the connections of that one alone: it works with a hundred others, and with another's missing. No
    cluster: the catalog alone, for whoever only tells or shows.
    """

    def __init__(self, *, owner: str, cluster: str | None) -> None:
        super().__init__()
        self._owner = owner
        self._cluster = cluster
        self._secrets: list[str] = []

    @cached_property
    def settings(self) -> Settings:
        """The configuration that PGBACKUP_CONFIG names."""
        return load_settings()

    def get_conn(self) -> Site:
        """Return the Site; see site()."""
        return self.site()

    def site(self) -> Site:
        """Build the real parts from Airflow's connections."""
        self.parameters(self.settings.catalog)
        if self._cluster is not None:
            cluster = self.settings.cluster(self._cluster)
            self.parameters(cluster.connection)
            if cluster.recovery_connection:
                with contextlib.suppress(AirflowNotFoundException):  # a backup does without it
                    self.parameters(cluster.recovery_connection)
        return build_site(
            self.settings, self.parameters, owner=self._owner, bucket=self.bucket, secrets=tuple(self._secrets)
        )

    def bucket(self, s3: S3) -> Any:
        """Make a bucket's client from its Airflow connection; Airflow itself masks what is secret in it."""
        if s3.airflow_conn_id:  # S3Hook would take this machine's own rights instead of one that is missing
            self.get_connection(s3.airflow_conn_id)
        hook = S3Hook(aws_conn_id=s3.airflow_conn_id)
        return hook.get_client_type(config=hook.config.merge(client_config(s3)))

    def parameters(self, connection: Connection) -> ConnectionParameters:
        """Turn an Airflow connection into libpq keywords; one that names a service only is libpq's own business."""
        if connection.airflow_conn_id is None:
            return service_parameters(connection)
        found = self.get_connection(connection.airflow_conn_id)
        if found.password:
            mask_secret(found.password)
            self._secrets.append(found.password)
        keywords = {"host": found.host, "port": found.port, "user": found.login, "dbname": found.schema}
        extra: dict[str, Any] = {key: value for key, value in found.extra_dejson.items() if key not in _NOT_LIBPQ}
        present = {key: str(value) for key, value in {**keywords, **extra}.items() if value is not None and value != ""}
        return ConnectionParameters({"dbname": "postgres", **present}, found.password or None)
