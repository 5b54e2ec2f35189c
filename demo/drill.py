"""The second act: the sample is damaged in three ways while a load runs, and each is recovered through Airflow."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg import sql

from demo.board import console
from demo.config import CLUSTER
from demo.evidence import NotProvedError, follow, print_lines
from demo.layout import Layout, free_port, load_secrets, read_ports
from demo.load import Load
from demo.rest import Airflow
from demo.stack import streamflix_server

TABLE_DAG = f"{CLUSTER}_recover_table"
DISASTER_DAG = f"{CLUSTER}_disaster_recovery"
DROPPED, THINNED = "WatchlistItem", "Rating"


@dataclass(frozen=True)
class Outcome:
    """What a damage cost: how long until its recovery had ended, and what was lost of what had been committed."""

    damage: str
    dag_id: str
    seconds: float
    back: str
    lost: tuple[int, float]
    committed: int


def play(airflow: Airflow, layout: Layout) -> None:
    """Damage, recover, compare, three times; raises NotProvedError when something is not as it was."""
    started = datetime.fromtimestamp(layout.pid_file.stat().st_mtime, UTC)
    airflow.wait_for_dags(TABLE_DAG, DISASTER_DAG, parsed_since=started, within=60)
    server, password = streamflix_server(layout, read_ports(layout)), load_secrets(layout)["streamflix_superuser"]
    with Load(server, password, CLUSTER) as load:
        acts: list[Callable[[Airflow, Load], Outcome]] = [drop_a_table, delete_rows, destroy_the_server]
        outcomes = [act(airflow, load) for act in acts]
    show(outcomes)


def drop_a_table(airflow: Airflow, load: Load) -> Outcome:
    """A table is gone: it is made again as it was a moment before."""
    before = contents(load, DROPPED)
    moment = now(load)
    statement = sql.SQL("DROP TABLE {}").format(sql.Identifier(DROPPED))
    announce(f"{statement.as_string()}, at {moment:%H:%M:%S.%f} UTC")
    with load.connect() as connection:
        connection.execute(statement)
    seconds = recovered(airflow, TABLE_DAG, table=f"public.{DROPPED}", moment=moment.isoformat())
    same(DROPPED, before, contents(load, DROPPED))
    back = f"{before[0]} rows, all the same"
    return Outcome("dropped table", TABLE_DAG, seconds, back, load.lost(moment), len(load.committed))


def delete_rows(airflow: Airflow, load: Load) -> Outcome:
    """Rows are gone: those that a moment before were there are put back, everything else stays as it is."""
    before = contents(load, THINNED)
    moment = now(load)
    statement = sql.SQL("DELETE FROM {} WHERE profile_id % 3 = 0").format(sql.Identifier(THINNED))
    announce(f"{statement.as_string()}, at {moment:%H:%M:%S.%f} UTC")
    with load.connect() as connection:
        deleted = connection.execute(statement).rowcount
    seconds = recovered(airflow, TABLE_DAG, table=f"public.{THINNED}", moment=moment.isoformat(), way="merge")
    same(THINNED, before, contents(load, THINNED))
    back = f"the {deleted} rows of {before[0]} that were deleted, all the same"
    return Outcome("deleted rows", TABLE_DAG, seconds, back, load.lost(moment), len(load.committed))


def destroy_the_server(airflow: Airflow, load: Load) -> Outcome:
    """The whole data directory is gone: the cluster comes back to the last second that was received."""
    data = load.server.data
    pid = int((data / "postmaster.pid").read_text().splitlines()[0])
    announce(f"kill -KILL {pid}; rm -r {data}")
    os.kill(pid, signal.SIGKILL)
    while data.exists():  # what the last processes of the server write is removed, too
        with contextlib.suppress(OSError):
            shutil.rmtree(data)
    moment, committed = max(load.committed.values()), len(load.committed)
    form = {"what": "the data directory was destroyed", "happened_at": moment.isoformat(), "port": free_port()}
    seconds = recovered(airflow, DISASTER_DAG, **form)
    back = "the cluster; no money is missing"
    return Outcome("destroyed data directory", DISASTER_DAG, seconds, back, load.lost(moment), committed)


def recovered(airflow: Airflow, dag_id: str, **form: object) -> float:
    """Fill in a DAG's form, approve what it asks, wait for its end; return the seconds that all of it took."""
    began = time.monotonic()
    follow(airflow, dag_id, airflow.trigger(dag_id, **form), approve=CLUSTER)
    return time.monotonic() - began


def contents(load: Load, table: str) -> tuple[int, str]:
    """How many rows a table has, and a digest of all of them."""
    query = sql.SQL("SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {} AS t")
    with load.connect() as connection:
        rows, digest = connection.execute(query.format(sql.Identifier(table))).fetchone() or (0, "")
    return int(rows), str(digest)


def same(table: str, before: tuple[int, str], after: tuple[int, str]) -> None:
    """See that a table is as it was."""
    if before != after:
        raise NotProvedError(f"{table} had {before[0]} rows and has {after[0]}: it is not as it was")


def now(load: Load) -> datetime:
    """The server's clock, between the load's commits."""
    with load.connect() as connection:
        ((moment,),) = connection.execute("SELECT clock_timestamp()").fetchall()
    time.sleep(0.1)
    return datetime.fromtimestamp(moment.timestamp(), UTC)


def announce(damage: str) -> None:
    """Print what is done to the server."""
    console.print(f"\n[bold red]Damage[/] {damage}", highlight=False)


def show(outcomes: list[Outcome]) -> None:
    """Print what each damage cost."""
    console.print("\n[bold]What it cost[/]")
    for one in outcomes:
        transfers, seconds = one.lost
        console.print(f"{one.damage}: {one.dag_id}", markup=False)
        print_lines(
            [
                ("  came back", one.back),
                ("  lost", f"{seconds:.3f} s ({transfers} of {one.committed} transfers that had been committed)"),
                ("  elapsed", f"{one.seconds:.1f} s"),
            ]
        )
