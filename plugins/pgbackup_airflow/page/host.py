"""Airflow's public REST API, asked in this process as the user who asks us: with its checks and its audit log."""

from __future__ import annotations

from typing import Annotated, Any, Self
from urllib.parse import quote

import httpx
from fastapi import Depends, HTTPException, Request

from pgbackup_airflow.page.access import token_of

ACTIVE = ("queued", "running")


class Host:
    """A client with the user's own credential."""

    def __init__(self, transport: httpx.AsyncBaseTransport, token: str) -> None:
        self._client = httpx.AsyncClient(
            transport=transport,
            base_url="http://airflow/api/v2",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )

    @classmethod
    def for_request(cls, request: Request) -> Self:
        """Talk to the API server that this page is part of."""
        from airflow.api_fastapi.main import app  # noqa: PLC0415 - it imports the plugins, hence us

        return cls(httpx.ASGITransport(app), token_of(request))

    async def dags(self) -> list[dict[str, Any]]:
        """Return our DAGs that the user may read."""
        answer = await self._client.get("/dags", params={"tags": "pgbackup", "limit": 1000, "order_by": "dag_id"})
        return list(_checked(answer)["dags"])

    async def runs(self, dag_id: str, *, states: tuple[str, ...] = (), limit: int = 1) -> dict[str, Any]:
        """Return a DAG's newest runs, and how many there are in all."""
        query: dict[str, Any] = {"state": list(states), "limit": limit, "order_by": "-run_after"}
        return _checked(await self._client.get(f"/dags/{quote(dag_id)}/dagRuns", params=query))

    async def start(self, dag_id: str, run_id: str, conf: dict[str, Any], note: str) -> bool:
        """Trigger a run; False when there is one of that id already. Airflow's own refusals are passed on."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf, "note": note}
        answer = await self._client.post(f"/dags/{quote(dag_id)}/dagRuns", json=body)
        if answer.status_code == httpx.codes.CONFLICT:
            return False
        _checked(answer)
        return True


Airflow = Annotated[Host, Depends(Host.for_request)]


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success:
        return dict(answer.json())
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.reason_phrase
    raise HTTPException(answer.status_code, detail)
