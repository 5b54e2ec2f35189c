"""docker-compose.yaml for real: up, a night, a recovery, containers killed and stopped under a backup, down."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.airflow_e2e.rest import FINAL, Run, eventually
from tests.compose.stack import SERVICES, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]  # the first test waits for engine, images and stack

REPOSITORIES = {"local", "eu-central-1", "us-east-1", "ap-south-1"}
RECOVERY = "streamflix_recover_point_in_time"
RECOVERED = "/backups/.recovered/streamflix_*[0-9]"


@pytest.fixture(scope="module")
def night(stack: Stack) -> Run:
    """A full backup whose proofs have ended."""
    run = stack.rest.finish("streamflix_full_backup")
    assert run.state == "success", run.logs()
    eventually(lambda: all(one["state"] != "captured" for one in stack.backups().values()), "the verdicts")
    return run


def waits(stack: Stack, table: str) -> bool:
    """Whether a capture waits for a table."""
    return stack.locks(table, "NOT l.granted") > 0


def worker_of(run: Run, task_id: str) -> str:
    """The host name of the container that runs a task."""
    return str(run.tasks()[task_id]["hostname"])


def capturing(run: Run) -> str:
    """The task of a run that is running."""
    (task_id,) = [name for name, task in run.tasks().items() if task["state"] == "running"]
    return task_id


def assert_nothing_half(stack: Stack, before: set[str]) -> None:
    """Everything that is listed or lies in the repository is whole, and there is something new."""
    new = {name: one for name, one in stack.backups().items() if name not in before}
    whole = {name for name, one in new.items() if one["state"] in {"captured", "verified"}}
    assert {str(new[name]["kind"]) for name in whole} == {"base", "full"}
    folders = stack.run_in("worker", "sh", "-c", "ls -d /backups/full/*_full /backups/base/*_base").split()
    assert whole <= {folder.rpartition("/")[2] for folder in folders}
    for folder in folders:
        name = folder.rpartition("/")[2]
        committed = stack.run_in("worker", "sh", "-c", f"ls {folder}/SHA256SUMS 2>/dev/null", check=False)
        assert bool(committed) == (name in before | whole), f"{folder} looks like a backup"
        if committed:
            stack.run_in("worker", "sh", "-c", f"cd {folder} && sha256sum --check --quiet SHA256SUMS")


def test_every_container_is_locked_down(stack: Stack) -> None:
    containers = stack.containers()
    services = {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in containers.values()}
    assert services.keys() == SERVICES | {"setup"}
    for name, one in services.items():
        host = one["HostConfig"]
        assert one["Config"]["User"] == "999:999", name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Memory"] > 0, name
        assert host["PidsLimit"] > 0, name
        ports = [binding for bindings in (host["PortBindings"] or {}).values() for binding in bindings]
        assert {binding["HostIp"] for binding in ports} <= {"127.0.0.1"}, name


def test_no_secret_is_in_an_environment_or_a_command(stack: Stack) -> None:
    told = json.dumps(list(stack.containers().values()))
    for path in stack.secrets.iterdir():
        if path.suffix not in {".crt", ".asc", ".key"}:
            for secret in re.findall(r"[0-9a-f]{48}", path.read_text()):
                assert secret not in told, path.name
    holders = [name for name in SERVICES if "backup.sec.asc" in stack.run_in(name, "ls", "/run/secrets", check=False)]
    assert holders == ["worker"], "only who proves and recovers holds the private key"


def test_a_night_is_taken_proved_copied_and_told(stack: Stack, night: Run) -> None:
    backups = stack.backups()
    assert {one["kind"] for one in backups.values()} == {"base", "full"}
    assert {one["state"] for one in backups.values()} == {"verified"}
    for one in backups.values():
        assert {copy["repository"] for copy in one["copies"]} == REPOSITORIES
    assert stack.run_in("worker", "stat", "--format=%a", "/backups").strip() == "700"
    assert stack.run_in("worker", "sh", "-c", "ls /var/log/backups")
    eventually(lambda: all(name in stack.mails() for name in backups), "the mails")


def test_a_moment_comes_back(stack: Stack, night: Run) -> None:
    stack.sql("CREATE TABLE moments AS SELECT 'before' AS said")
    moment = stack.sql("SELECT clock_timestamp() + interval '1 second'").replace(" ", "T")
    eventually(lambda: stack.sql(f"SELECT clock_timestamp() > '{moment}'") == "t", "the moment after")
    stack.sql("INSERT INTO moments VALUES ('after'); SELECT pg_switch_wal()")
    run = stack.rest.trigger(RECOVERY, {"target": "time", "time": f"{moment}:00", "port": 5499})
    run.wait_for_question()
    run.answer(stack.rest, "Approve", "streamflix")
    assert run.wait() == "success", run.logs()
    try:
        asked = f'psql -XAt -h {RECOVERED} -p 5499 -U postgres -d streamflix -c "TABLE moments"'
        assert stack.run_in("worker", "sh", "-c", asked).split() == ["before"]
    finally:
        stack.run_in("worker", "sh", "-c", f"pg_ctl -D {RECOVERED} -m fast stop")


def test_a_backup_outlives_the_worker_that_took_it(stack: Stack, night: Run) -> None:
    before = set(stack.backups())
    stack.up("--scale", "worker=2", "--no-recreate")
    with stack.held('"Title"'):
        run = stack.rest.trigger("streamflix_full_backup")
        eventually(lambda: waits(stack, '"Title"') or run.state in FINAL, "a capture that waits")
        task_id = capturing(run)
        killed = worker_of(run, task_id)
        stack.engine.docker("kill", killed)
    assert run.wait() == "success", run.logs()
    assert worker_of(run, task_id) != killed
    assert run.tasks()[task_id]["try_number"] > 1
    stack.engine.docker("rm", killed)
    assert_nothing_half(stack, before)


def test_a_stop_lets_a_backup_finish(stack: Stack, night: Run) -> None:
    before = set(stack.backups())
    with ThreadPoolExecutor(1) as pool:
        with stack.held('"Title"'):
            run = stack.rest.trigger("streamflix_full_backup")
            eventually(lambda: waits(stack, '"Title"') or run.state in FINAL, "a capture that waits")
            stopping = pool.submit(stack.compose, "stop")
            said = lambda: stack.compose("logs", "--tail", "50", "worker").stdout  # noqa: E731
            eventually(lambda: "Warm shutdown" in said(), "a worker that takes no more tasks")
            assert waits(stack, '"Title"'), "the capture goes on"
        stopping.result()
    (worker,) = stack.containers("worker").values()
    assert worker["State"]["ExitCode"] == 0, worker["State"]
    stack.up()
    again = Run(stack.rest, run.dag_id, run.run_id)
    assert again.wait() == "success", again.logs()
    assert_nothing_half(stack, before)


@pytest.mark.parametrize("secret", ["backup.passphrase", "backup.sec.asc"])
def test_a_secret_that_others_may_read_is_refused(stack: Stack, night: Run, secret: str) -> None:
    path = stack.secrets / secret
    backup = next(iter(stack.backups()))
    path.chmod(0o644)
    try:
        done = stack.compose("exec", "--no-TTY", "worker", "pgbackup", "verify", backup, check=False)
    finally:
        path.chmod(0o600)
    assert done.returncode == 3, done.stdout
    assert "a secret file is open to others" in done.stderr + done.stdout
    assert secret in done.stderr + done.stdout


def test_a_server_refuses_a_key_that_others_may_read(stack: Stack) -> None:
    path = stack.secrets / "server.key"
    path.chmod(0o644)
    try:
        done = stack.compose("run", "--rm", "--no-deps", "--no-TTY", "streamflix", check=False)
    finally:
        path.chmod(0o600)
    assert done.returncode == 2
    assert "/run/secrets/server.key can be read or changed by others" in done.stderr + done.stdout


def test_a_secret_that_is_missing_starts_nothing(stack: Stack) -> None:
    path = stack.secrets / "backup.passphrase"
    away = path.rename(path.with_suffix(".away"))
    try:
        done = stack.compose("run", "--rm", "--no-deps", "--no-TTY", "worker", "true", check=False)
    finally:
        away.rename(path)
    assert done.returncode != 0
    assert "backup.passphrase" in done.stderr


def test_the_script_backs_up_without_airflow(stack: Stack) -> None:
    done = stack.compose("--profile", "script", "run", "--rm", "--no-deps", "--no-TTY", "backup")
    folder = done.stdout.strip().splitlines()[-1]
    secrets = "/run/secrets"
    verdict = stack.run_in(
        *("worker", "/scripts/verify_backup.sh", folder),
        *("--key", f"{secrets}/backup.sec.asc", "--passphrase-file", f"{secrets}/backup.passphrase"),
    )
    assert verdict.strip().splitlines()[-1] == "verdict: verified", verdict
