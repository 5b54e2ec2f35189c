"""The few questions that the demo asks Airflow's REST API."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

FINAL = {"success", "failed"}
REREAD = 20.0  # an import error may be an old one for as long as it takes to read the files again


class AirflowError(Exception):
    """Airflow refused, or does not do what the demo waits for."""


class Airflow:
    """A logged-in client."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        token = self._ask("POST", "/auth/token", json={"username": user, "password": password})["access_token"]
        self.client.headers["Authorization"] = f"Bearer {token}"

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self.client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise AirflowError(f"{method} {path}: {error}") from error
        if response.is_error:
            raise AirflowError(f"{method} {path}: HTTP {response.status_code}: {response.text[:500]}")
        return response.json()

    def import_errors(self) -> list[tuple[str, str]]:
        """Every DAG file that could not be imported, with its traceback."""
        errors = self._ask("GET", "/api/v2/importErrors")["import_errors"]
        return [(str(error["filename"]), str(error["stack_trace"])) for error in errors]

    def dag_ids(self, parsed_since: datetime) -> set[str]:
        """The DAGs whose files were read since then: they are as the files are now."""
        dags = self._ask("GET", "/api/v2/dags", params={"limit": 100})["dags"]
        parsed = {str(dag["dag_id"]): datetime.fromisoformat(dag["last_parsed_time"]) for dag in dags}
        return {dag_id for dag_id, at in parsed.items() if at >= parsed_since}

    def wait_for_dags(self, *dag_ids: str, parsed_since: datetime, within: float) -> None:
        """Wait until ``dag_ids`` are known and no DAG file is broken; raises AirflowError with what is wrong."""
        began = time.monotonic()
        while True:
            missing, errors = set(dag_ids) - self.dag_ids(parsed_since), self.import_errors()
            if not missing and not errors:
                return
            waited = time.monotonic() - began
            if errors and waited > REREAD:
                texts = "\n".join(f"{name}\n{trace}" for name, trace in errors)
                raise AirflowError(f"DAG files that cannot be imported:\n{texts}")
            if waited > within:
                raise AirflowError(f"after {within:.0f} s there is still no DAG {', '.join(sorted(missing))}")
            time.sleep(0.5)

    def trigger(self, dag_id: str, **conf: Any) -> str:
        """Start a run with a filled-in form; returns its id."""
        run = self._ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """A run as the API shows it."""
        found: dict[str, Any] = self._ask("GET", _run_path(dag_id, run_id))
        return found

    def runs(self, dag_id: str, prefix: str) -> list[str]:
        """Ids of the DAG's latest runs that begin with ``prefix``, oldest first."""
        query = {"limit": 100, "order_by": "-run_after"}
        runs = self._ask("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=query)["dag_runs"]
        return [run["dag_run_id"] for run in reversed(runs) if run["dag_run_id"].startswith(prefix)]

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The run's task instances, as the API shows them, in the order in which they started."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances"
        tasks: list[dict[str, Any]] = self._ask("GET", path, params={"limit": 100})["task_instances"]
        return sorted(tasks, key=lambda task: task["start_date"] or "9")

    def approve(self, task: dict[str, Any], name: str) -> None:
        """Approve what a task asks, with a name typed in."""
        path = f"{_run_path(task['dag_id'], task['dag_run_id'])}/taskInstances/{quote(task['task_id'], safe='')}"
        answer = {"chosen_options": ["Approve"], "params_input": {"cluster_name": name}}
        self._ask("PATCH", f"{path}/{task['map_index']}/hitlDetails", json=answer)

    def log(self, task: dict[str, Any]) -> Iterator[str]:
        """The lines of a task instance's last try."""
        path = f"{_run_path(task['dag_id'], task['dag_run_id'])}/taskInstances/{quote(task['task_id'], safe='')}"
        query = {"map_index": task["map_index"], "full_content": True}
        answer = self._ask("GET", f"{path}/logs/{task['try_number']}", params=query)
        for entry in answer["content"]:
            if isinstance(entry, str):
                yield entry
                continue
            if str(entry["event"]).startswith(("::group", "::endgroup")):
                continue
            yield " ".join(str(entry[key]) for key in ("timestamp", "level", "event") if entry.get(key))
            for error in entry.get("error_detail") or ():
                yield f"{error.get('exc_type')}: {error.get('exc_value')}"


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"
