"""The page's routes. Every one of them, the files included, needs a login; what they tell, the rights on our DAGs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException, Request, status
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from pgbackup.domain.errors import ConfigurationError, PgBackupError, RefusedError, UnavailableError
from pgbackup.domain.metrics import exposition
from pgbackup.domain.settings import LOCAL, Settings
from pgbackup.domain.target import AtTime
from pgbackup.overview import Level, Overview, overview_json, summary_of
from pgbackup.recover import outline_text, plan_archived
from pgbackup.shelf import Kept, kept_reports, read_report
from pgbackup_airflow.page.access import Readable, User, may_start, seen_by
from pgbackup_airflow.page.host import ACTIVE, Airflow, Host
from pgbackup_airflow.page.source import Source

STATIC = Path(__file__).parent / "static"
FILES = {path.name: path for path in STATIC.glob("*.js")}
PROCEDURES = ("recover_point_in_time", "recover_database", "recover_table")
_TRIES = 20
"""Runs may have been deleted: then a number that counts them is taken already."""
_STATUS = {
    ConfigurationError: status.HTTP_422_UNPROCESSABLE_CONTENT,
    RefusedError: status.HTTP_409_CONFLICT,
    UnavailableError: status.HTTP_503_SERVICE_UNAVAILABLE,
}

app = FastAPI(title="pgbackup", dependencies=[Depends(get_user)], docs_url=None, redoc_url=None, openapi_url=None)
source = Source()


class Wanted(BaseModel):
    """What somebody picked on the page; a moment without its zone is refused."""

    model_config = ConfigDict(extra="forbid")

    moment: AwareDatetime
    repository: str = LOCAL


class Asked(Wanted):
    """A recovery to start: a whole cluster beside, or a database or table of it."""

    procedure: Literal["recover_point_in_time", "recover_database", "recover_table"] = "recover_point_in_time"
    database: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    table: Annotated[str, Field(min_length=1, max_length=127)] | None = None

    def conf(self) -> dict[str, Any]:
        """Return what the procedure's form would give."""
        moment = self.moment.isoformat().replace("+00:00", "Z")
        if self.procedure == "recover_point_in_time":
            return {"target": "time", "time": moment, "repository": self.repository}
        given = {"moment": moment, "repository": self.repository, "database": self.database}
        return given if self.procedure == "recover_database" else {**given, "table": self.table}


def _startable(cluster: Readable, user: User) -> list[str]:
    """Return the recoveries of a cluster that the user may start."""
    return [name for name in PROCEDURES if may_start(user, f"{cluster}_{name}")]


Startable = Annotated[list[str], Depends(_startable)]


@app.exception_handler(PgBackupError)
def explain(_request: Request, error: PgBackupError) -> JSONResponse:
    """Answer with what went wrong and what to do about it."""
    code = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"detail": error.message, "values": error.detail, "hint": error.hint}, code)


@app.get("/static/{name}")
def static(name: str) -> FileResponse:
    """Send a file of the page; the browser asks each time whether it changed."""
    if name not in FILES:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "no such file")
    return FileResponse(FILES[name], media_type="text/javascript", headers={"Cache-Control": "no-cache"})


@app.get("/api/clusters")
def clusters(user: User) -> list[dict[str, Any]]:
    """Return a line about each cluster that the user may see, the worst first."""
    names = [name for name in source.site().settings.clusters if seen_by(user, name)]
    found = [source.overview(name) for name in names]
    return [summary_of(one) for one in sorted(found, key=_badness)]


def _badness(document: Overview) -> tuple[int, bool, int, str]:
    """Sort the worst first: what cannot be recovered at all before what has problems."""
    summary = document.summary
    return list(Level).index(summary.level), summary.latest is not None, -len(summary.problems), summary.cluster


@app.get("/metrics")
def metrics(user: User) -> PlainTextResponse:
    """Return what the watch measured last of each cluster that the user may see, as Prometheus reads it."""
    site = source.site()
    samples = [one for name in site.settings.clusters if seen_by(user, name) for one in site.catalog.gauges(name)]
    return PlainTextResponse(exposition(samples), media_type="text/plain; version=0.0.4")


@app.get("/api/dags")
async def dags(airflow: Airflow) -> list[dict[str, str]]:
    """Return our DAGs that the user may read, each with its cluster: those that show a tab."""
    return [{"dag_id": dag["dag_id"], "cluster": name} for dag in await airflow.dags() if (name := _cluster_of(dag))]


@app.get("/api/clusters/{cluster}")
def cluster_overview(cluster: Readable) -> Response:
    """Return everything about a cluster."""
    return Response(overview_json(source.overview(cluster)), media_type="application/json")


@app.get("/api/clusters/{cluster}/runs")
async def runs(cluster: Readable, airflow: Airflow, startable: Startable) -> dict[str, Any]:
    """Return the cluster's DAGs with their next runs, the recoveries under way, and what the user may start."""
    own = [dag for dag in await airflow.dags() if _cluster_of(dag) == cluster]
    return {
        "dags": [
            {"dag_id": dag["dag_id"], "paused": dag["is_paused"], "next": dag["next_dagrun_run_after"]} for dag in own
        ],
        "under_way": [run for name in PROCEDURES if (run := await _under_way(airflow, f"{cluster}_{name}"))],
        "may_start": startable,
    }


@app.post("/api/clusters/{cluster}/plan")
def show_plan(cluster: Readable, wanted: Wanted) -> dict[str, Any]:
    """Plan a recovery to a moment from what is archived; the protected server is asked nothing."""
    site = source.site()
    if wanted.repository == LOCAL:
        _see(site.settings, "start the recovery: its run plans it where the backups are, then asks for approval")
    planned = plan_archived(site, cluster, AtTime(wanted.moment), timeline=None, repository=wanted.repository)
    return {"text": outline_text(planned), "seconds": planned.seconds}


@app.post("/api/clusters/{cluster}/recoveries", status_code=status.HTTP_201_CREATED)
async def start(cluster: Readable, user: User, airflow: Airflow, startable: Startable, asked: Asked) -> dict[str, str]:
    """Start a recovery as the user; 409 with the run when one is under way."""
    dag_id = f"{cluster}_{asked.procedure}"
    if asked.procedure not in startable:
        raise HTTPException(status.HTTP_403_FORBIDDEN, f"you may look, and you may not start {dag_id}")
    # The number is taken before anybody is looked for: of two people who start at once, one finds the other's run, or
    # the number taken.
    number = (await airflow.runs(dag_id))["total_entries"] + 1
    note = f"asked for on the Recovery page by {user.get_name()}"
    for run_id in (f"page__{one}" for one in range(number, number + _TRIES)):
        if other := await _under_way(airflow, dag_id):
            raise HTTPException(status.HTTP_409_CONFLICT, {"message": "a recovery is under way", "run": other})
        if await airflow.start(dag_id, run_id, asked.conf(), note):
            return {"dag_id": dag_id, "run_id": run_id}
    raise HTTPException(status.HTTP_409_CONFLICT, f"no run id of {dag_id} is free")


@app.get("/api/clusters/{cluster}/reports")
def reports(cluster: Readable) -> tuple[Kept, ...]:
    """Return the newest reports of reviews, audits and drills."""
    settings = source.site().settings
    settings.cluster(cluster)
    _see(settings, "the reports were mailed, too, and lie there in .reports")
    return kept_reports(settings, cluster)


@app.get("/api/clusters/{cluster}/reports/{name}")
def report(cluster: Readable, name: str) -> dict[str, str]:
    """Return a report's HTML, as a text that the page shows where nothing in it can run."""
    settings = source.site().settings
    settings.cluster(cluster)
    return {"html": read_report(settings, cluster, name)}


def _see(settings: Settings, hint: str) -> None:
    """Raise UnavailableError when this machine does not see the local repository."""
    if not settings.paths.backups.is_dir():
        raise UnavailableError(f"Airflow's API server does not see {settings.paths.backups}", hint=hint)


def _cluster_of(dag: dict[str, Any]) -> str | None:
    """Return the configured cluster that a DAG is of, None for one that is no longer configured."""
    tags = {tag["name"] for tag in dag["tags"]}
    return next((name for name in source.site().settings.clusters if name in tags), None)


async def _under_way(airflow: Host, dag_id: str) -> dict[str, Any] | None:
    """Return the run of a DAG that has not ended."""
    found = (await airflow.runs(dag_id, states=ACTIVE))["dag_runs"]
    fields = ("dag_id", "dag_run_id", "state", "triggering_user_name", "run_after", "conf")
    return {name: found[0].get(name) for name in fields} if found else None
