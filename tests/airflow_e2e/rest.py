"""What the tests ask Airflow's REST API."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from tests.support.source import Source

FINAL = {"success", "failed"}
LIMIT = 120.0
"""Seconds after which a wait is given up: no claim about speed, only an end to a hang."""

T = TypeVar("T")


def eventually(ask: Callable[[], T], what: str) -> T:
    """Ask until the answer is true; fails with what was waited for."""
    deadline = time.monotonic() + LIMIT
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)
    return answer


class Rest:
    """A logged-in client; ``scheduler_log`` tells what the API does not."""

    def __init__(self, url: str, user: str, password: str, scheduler_log: Path) -> None:
        self.scheduler_log = scheduler_log
        self._client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        answer = self._client.post("/auth/token", json={"username": user, "password": password})
        token = answer.raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._client.get(f"/api/v2{path}", params=query).raise_for_status().json()

    def post_run(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> httpx.Response:
        """Ask for a run, as the form does; the answer may be a refusal."""
        body: dict[str, Any] = {"logical_date": None, "conf": conf or {}}
        if run_id is not None:
            body["dag_run_id"] = run_id
        return self._client.post(f"/api/v2/dags/{dag_id}/dagRuns", json=body)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> Run:
        answer = self.post_run(dag_id, conf, run_id)
        assert answer.is_success, answer.text
        return Run(self, dag_id, str(answer.json()["dag_run_id"]))

    def finish(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> Run:
        """Trigger a run and wait for its end."""
        run = self.trigger(dag_id, conf, run_id)
        run.wait()
        return run

    def post(self, path: str, body: dict[str, Any]) -> None:
        self._client.post(f"/api/v2{path}", json=body).raise_for_status()

    def patch(self, path: str, body: dict[str, Any]) -> None:
        self._client.patch(f"/api/v2{path}", json=body).raise_for_status()


class Run:
    """One DAG run."""

    def __init__(self, rest: Rest, dag_id: str, run_id: str) -> None:
        self.rest = rest
        self.dag_id = dag_id
        self.run_id = run_id
        self.path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"

    @property
    def owner(self) -> str:
        """What the catalog calls it."""
        return f"{self.dag_id}/{self.run_id}"

    @property
    def cluster(self) -> str:
        """Whose DAG it is of."""
        return self.dag_id.partition("_")[0]

    @property
    def state(self) -> str | None:
        """Its state; None while there is no such run."""
        answer = self.rest._client.get(f"/api/v2{self.path}")
        return None if answer.status_code == httpx.codes.NOT_FOUND else str(answer.raise_for_status().json()["state"])

    def wait(self) -> str:
        """Wait for its end; return success or failed."""
        return str(eventually(lambda: (state := self.state) in FINAL and state, f"the end of {self.owner}"))

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Its task instances, by task id (of a mapped one: with the index)."""
        found = self.rest.get(f"{self.path}/taskInstances", limit=100)["task_instances"]
        names = {True: "{task_id}", False: "{task_id}[{map_index}]"}
        return {names[task["map_index"] < 0].format_map(task): task for task in found}

    def fail_task(self, task_id: str) -> None:
        """Mark a task as failed, as the UI's button does."""
        self.rest.patch(f"{self.path}/taskInstances/{task_id}", {"new_state": "failed"})

    def clear(self, task_id: str) -> None:
        """Let a task and what follows it run again, as the UI's button does."""
        body = {"dag_run_id": self.run_id, "task_ids": [task_id], "include_downstream": True, "dry_run": False}
        self.rest.post(f"/dags/{self.dag_id}/clearTaskInstances", body)

    def wait_for_question(self, task_id: str = "approve") -> dict[str, Any]:
        """Wait until a task asks people; return what."""
        eventually(lambda: self.is_asking(task_id) or self.state in FINAL, "the question")
        assert self.is_asking(task_id), self.logs()
        # No person is as quick: answered before the scheduler saw the asking process end, the task counts as lost,
        # and the question is asked again.
        eventually(lambda: self._is_seen_asking(task_id), "a scheduler that knows of the question")
        details = self.rest.get(f"{self.path}/hitlDetails")["hitl_details"]
        (question,) = [one for one in details if one["task_instance"]["task_id"] == task_id]
        return dict(question)

    def is_asking(self, task_id: str) -> bool:
        """Whether a task waits for somebody's answer."""
        return bool(self.tasks()[task_id]["state"] == "awaiting_input")

    def _is_seen_asking(self, task_id: str) -> bool:
        """Whether the scheduler saw the end of the process that asked."""
        asking = f"ti_id={self.tasks()[task_id]['id']},"
        lines = self.rest.scheduler_log.read_text(errors="replace").splitlines()
        return any(asking in line and " state=awaiting_input," in line for line in lines)

    def answer(self, rest: Rest, option: str, cluster_name: str | None = None, task_id: str = "approve") -> None:
        """Answer a request for approval as somebody."""
        body = {"chosen_options": [option], "params_input": {"cluster_name": cluster_name}}
        rest.patch(f"{self.path}/taskInstances/{task_id}/-1/hitlDetails", body)

    def choose(self, option: str, task_id: str = "choose") -> None:
        """Choose one of the options that a task offers."""
        body = {"chosen_options": [option], "params_input": {}}
        self.rest.patch(f"{self.path}/taskInstances/{task_id}/-1/hitlDetails", body)

    def time_out(self, ops: Source, task_id: str) -> None:
        """Let the time be over in which a task's question can be answered."""
        with ops.connect("airflow") as connection:
            connection.execute(
                "UPDATE task_instance SET trigger_timeout = now() WHERE run_id = %s AND task_id = %s",
                (self.run_id, task_id),
            )

    def log(self, task: dict[str, Any]) -> str:
        """What a task instance's last try logged."""
        query = {"map_index": task["map_index"], "full_content": True}
        content = self.rest.get(f"{self.path}/taskInstances/{task['task_id']}/logs/{task['try_number']}", **query)
        return str(content["content"])

    def logs(self) -> str:
        """What all its tasks logged."""
        return "\n".join(self.log(task) for task in self.tasks().values() if task["start_date"])
