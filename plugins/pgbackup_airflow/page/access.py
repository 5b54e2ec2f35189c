"""Who may see and do what: Airflow's own permissions on our DAGs. Core-internal imports are kept in this file."""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, Request, status

User = Annotated[BaseUser, Depends(get_user)]
"""The logged-in user; 401 without one."""


def may_read(user: BaseUser, dag_id: str) -> bool:
    """Tell whether somebody may look at a DAG."""
    return get_auth_manager().is_authorized_dag(method="GET", details=_details(dag_id), user=user)


def may_start(user: BaseUser, dag_id: str) -> bool:
    """Tell whether somebody may trigger a DAG."""
    manager, details = get_auth_manager(), _details(dag_id)
    return manager.is_authorized_dag(method="POST", access_entity=DagAccessEntity.RUN, details=details, user=user)


def seen_by(user: BaseUser, cluster: str) -> bool:
    """Tell whether somebody may look at a cluster: who may read the DAG of its backups."""
    return may_read(user, f"{cluster}_full_backup")


def readable(cluster: str, user: User) -> str:
    """Return the cluster of the path; 403 unless the user may look at it, known or not."""
    if not seen_by(user, cluster):
        raise HTTPException(status.HTTP_403_FORBIDDEN, f"you may not read the DAGs of {cluster}")
    return cluster


Readable = Annotated[str, Depends(readable)]


def token_of(request: Request) -> str:
    """Return the credential that get_user accepted: a bearer token before the session's cookie."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given if scheme.lower() == "bearer" else request.cookies.get(COOKIE_NAME_JWT_TOKEN, "")


def _details(dag_id: str) -> DagDetails:
    return DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
