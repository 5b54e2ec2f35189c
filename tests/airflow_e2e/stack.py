"""Airflow's four components around real servers, a real mailbox and a real key: started once, gone with the tests."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from pgbackup.assembly import build_site
from pgbackup.domain.model import ConnectionParameters
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import S3, Connection, Settings, parse_settings
from tests.airflow_e2e.ears import Gauges, Pager
from tests.airflow_e2e.mailbox import LOGIN, Mailbox
from tests.airflow_e2e.processes import end, living
from tests.airflow_e2e.rest import Rest, Run, eventually
from tests.support.faulty import FaultyWay
from tests.support.keys import make_key
from tests.support.s3 import ACCESS, BUCKET, SECRET, Region, make_client
from tests.support.source import LIBRARY, ROOT, SAMPLE, Source, free_port

RECIPIENT = "dba@streamflix.example"
CONTACT = {"role": "Database Administrator", "name": "Dana Ortiz", "reach": "+1 555 0100"}
CLUSTERS = ("streamflix", "library")
BRANCH = "branch"
PROCEDURES = (
    "full_backup",
    "incremental_backup",
    "verify_backup",
    "wal_watch",
    "copy_wal",
    "recover_point_in_time",
    "recover_database",
    "recover_table",
    "disaster_recovery",
    "recovery_drill",
    "quarterly_audit",
    "daily_expiry",
    "weekly_rotation",
    "monthly_rotation",
    "weekly_review",
    "monthly_review",
)
USERS = {"admin": "admin", "dana": "op", "vera": "viewer", "stranger": ""}
"""Who may log in, and Airflow's role of each; the last one may see nothing."""
REGIONS = ("eu-central-1", "us-east-1")
COMPONENTS: dict[str, list[str]] = {
    "api-server": [],
    "scheduler": ["--skip-serve-logs"],
    "dag-processor": [],
    "triggerer": ["--skip-serve-logs"],
}
# Airflow's own way to change the tasks of a site: the tests don't wait half a minute for each retry.
LOCAL_SETTINGS = """
import dataclasses
from datetime import timedelta

from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy

SOON = timedelta(seconds=1)

def task_policy(task):
    task.retry_delay = SOON
    if task.retry_policy is not None:
        rules = [dataclasses.replace(rule, retry_delay=rule.retry_delay and SOON) for rule in task.retry_policy.rules]
        task.retry_policy = ExceptionRetryPolicy(rules=rules)
"""


class Stack:
    """Two clusters on one protected server, and what backs them up.

    ``streamflix`` is what the protocol says; of ``library`` only the small database of that name is dumped, and its
    backups are late after a second. A third one, ``branch``, has a server of its own, which may be lost.
    """

    local_settings = LOCAL_SETTINGS

    def __init__(
        self,
        home: Path,
        ops: Source,
        protected: Source,
        branch: Source,
        mailbox: Mailbox,
        region: Region,
        pager: Pager,
        gauges: Gauges,
    ) -> None:
        self.home = home
        self.ops = ops
        self.protected = protected
        self.branch = branch
        self.mailbox = mailbox
        self.pager = pager
        self.gauges = gauges
        self.ways = {name: FaultyWay(region.port + 3) for name in REGIONS}
        self.airflow = home / "airflow"
        self.logs = home / "log"
        for folder in (self.airflow / "config", self.logs):
            folder.mkdir(parents=True)
        self.key = make_key(home / "keys", f"e2e-{secrets.token_hex(8)}")  # its passphrase is this stack's alone
        self.port = free_port()
        self._fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        self.passwords = {
            name: secrets.token_urlsafe(24)
            for name in ("catalog", "airflow", "admin", "dana", "vera", "stranger", "recovery")
        }
        self.settings: Settings = parse_settings(self._protocol(), source="the stack's configuration")
        self.rest: Rest
        self.colleague: Rest
        self._components: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def secrets(self) -> dict[str, str]:
        """Every secret that Airflow or the engine is given."""
        return {
            **self.passwords,
            "source": self.protected.password,
            "branch": self.branch.password,
            "smtp": self.mailbox.password,
            "s3": SECRET,
            "passphrase": self.key.passphrase_file.read_text().strip(),
        }

    @property
    def backups(self) -> Path:
        """The local repository."""
        return self.settings.paths.backups

    def site(self, owner: str = "by hand") -> Site:
        """The same site, used without Airflow."""

        def resolve(connection: Connection) -> ConnectionParameters:
            name = connection.airflow_conn_id or ""
            found = self._connections()[name]
            keywords = {"host": found["host"], "port": str(found["port"]), "user": found["login"]}
            return ConnectionParameters({**keywords, "dbname": found["schema"]}, found["password"])

        def bucket(s3: S3) -> Any:
            endpoint = self.ways[s3.prefix].endpoint
            return make_client(endpoint, (ACCESS, SECRET), s3)

        return build_site(self.settings, resolve, owner=owner, bucket=bucket)

    def fill_ops(self) -> None:
        """Make the databases of the catalog and of Airflow."""
        for name in ("catalog", "airflow"):
            self.ops.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{self.passwords[name]}'")
            self.ops.execute(f"CREATE DATABASE {name} OWNER {name}")

    def fill_protected(self) -> None:
        """Load both samples."""
        self.protected.execute("ALTER SYSTEM SET summarize_wal = on")
        self.protected.execute("SELECT pg_reload_conf()")
        self.protected.execute(f"ALTER ROLE postgres PASSWORD '{self.passwords['recovery']}'")
        self.protected.load_sample("streamflix")
        self.protected.execute("CREATE DATABASE library")
        self.protected.execute(LIBRARY, "library")
        self.protected.run_script(SAMPLE / "pgbackup.sql", "library")
        self.branch.make_roles()
        self.branch.execute(f"ALTER ROLE postgres PASSWORD '{self.passwords['recovery']}'")
        self.branch.execute("CREATE DATABASE library")
        self.branch.execute(LIBRARY, "library")
        for name in ("postgres", "library"):
            self.branch.run_script(SAMPLE / "pgbackup.sql", name)

    def migrate(self) -> subprocess.Popen[bytes]:
        """Start to make Airflow's schema."""
        (self.airflow / "config" / "airflow_local_settings.py").write_text(self.local_settings)
        (self.airflow / "passwords.json").write_text(json.dumps({name: self.passwords[name] for name in USERS}))
        (self.home / "protocol.yaml").write_text(yaml.safe_dump(self._protocol()))
        return self._start("db", "migrate")

    def start(self) -> None:
        """Start the components; return when all of them work and know every DAG."""
        for name, options in COMPONENTS.items():
            self._components[name] = self._start(name, *options)
        eventually(self._is_healthy, "Airflow's components")
        log = self._log("scheduler", *COMPONENTS["scheduler"])
        self.rest = Rest(self.url, "admin", self.passwords["admin"], log)
        self.colleague = Rest(self.url, "dana", self.passwords["dana"], log)
        expected = {f"{cluster}_{procedure}" for cluster in (*CLUSTERS, BRANCH) for procedure in PROCEDURES}
        eventually(lambda: expected <= self._dags() or self._import_errors(), "the DAGs")
        assert (errors := self._import_errors()) == [], "\n".join(errors)

    def stop(self) -> None:
        """End the components and whatever they started, at once: all that they keep is thrown away."""
        with contextlib.suppress(AttributeError):
            self.rest.close()
            self.colleague.close()
        for component in self._components.values():
            component.kill()
        while left := living(self.home):
            for process in left:
                end(process.pid)
        for component in self._components.values():
            component.wait()

    def output(self) -> dict[str, str]:
        """What each component printed so far."""
        return {path.stem: path.read_text(errors="replace") for path in self.logs.iterdir()}

    def wait_for_mail(self, run: Run, *words: str) -> str:
        """Wait for a mail about this run whose subject has all the words; return its text."""

        def found() -> list[str]:
            mails = [mail for mail in self.mailbox.mails if run.run_id in mail.text]
            return [mail.text for mail in mails if all(word in mail.subject for word in (run.cluster, *words))]

        return eventually(found, f"a mail about {run.owner}: {words}")[-1]

    def _log(self, *arguments: str) -> Path:
        """Where a component's output goes."""
        return self.logs / f"{'-'.join(arguments[:2])}.log"

    def _start(self, *arguments: str, log: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Start a component that dies with these tests. To be called by the main thread, which outlives them all."""
        airflow = Path(sys.executable).with_name("airflow")
        dying = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        with (log or self._log(*arguments)).open("ab") as output:
            return subprocess.Popen(
                [*dying, str(airflow), *arguments],
                env={**self._environment(), **environment},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _is_healthy(self) -> bool:
        for name, component in self._components.items():
            assert component.poll() is None, f"{name} ended:\n{self.output()}"
        try:
            answer = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=10, trust_env=False)
            parts = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return False
        wanted = ("metadatabase", "scheduler", "dag_processor", "triggerer")
        return all((parts.get(name) or {}).get("status") == "healthy" for name in wanted)

    def _dags(self) -> set[str]:
        return {str(dag["dag_id"]) for dag in self.rest.get("/dags", limit=100)["dags"]}

    def _import_errors(self) -> list[str]:
        return [str(error["stack_trace"]) for error in self.rest.get("/importErrors")["import_errors"]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _environment(self) -> dict[str, str]:
        options = {
            f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
            for section, values in self._options().items()
            for option, value in values.items()
        }
        connections = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in self._connections().items()}
        return {
            **options,
            **connections,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "plugins"),  # this checkout's packages, whatever is installed
            "HOME": str(self.home),  # also the mark by which the processes are known
            "AIRFLOW_HOME": str(self.airflow),
            "PGBACKUP_CONFIG": str(self.home / "protocol.yaml"),
            "PYTHONUNBUFFERED": "1",
        }

    def _connections(self) -> dict[str, dict[str, Any]]:
        def server(source: Source, database: str, login: str, password: str) -> dict[str, Any]:
            return {
                "conn_type": "postgres",
                "host": "127.0.0.1",
                "port": source.port,
                "schema": database,
                "login": login,
                "password": password,
            }

        return {
            **{name: server(self.protected, name, "backup", self.protected.password) for name in CLUSTERS},
            "recovery": server(self.protected, "postgres", "postgres", self.passwords["recovery"]),
            BRANCH: server(self.branch, "postgres", "backup", self.branch.password),
            "branch_recovery": server(self.branch, "postgres", "postgres", self.passwords["recovery"]),
            **{
                name.replace("-", "_"): {
                    "conn_type": "aws",
                    "login": ACCESS,
                    "password": SECRET,
                    "extra": {"region_name": name, "endpoint_url": way.endpoint},
                }
                for name, way in self.ways.items()
            },
            "pgbackup_catalog": server(self.ops, "catalog", "catalog", self.passwords["catalog"]),
            "pager": {"conn_type": "http", "host": "127.0.0.1", "port": self.pager.port, "schema": "http"},
            "pgbackup_smtp": {
                "conn_type": "smtp",
                "host": "127.0.0.1",
                "port": self.mailbox.port,
                "login": LOGIN,
                "password": self.mailbox.password,
                "extra": {"disable_ssl": True, "disable_tls": True},
            },
        }

    def _options(self) -> Mapping[str, Mapping[str, object]]:
        database = f"postgresql+psycopg://airflow:{self.passwords['airflow']}@127.0.0.1:{self.ops.port}/airflow"
        return {
            "core": {
                "dags_folder": ROOT / "dags",
                "plugins_folder": ROOT / "plugins",
                "executor": "LocalExecutor",
                "parallelism": 3,
                "load_examples": False,
                "fernet_key": self._fernet,
                "execution_api_server_url": f"{self.url}/execution/",
                "simple_auth_manager_users": ",".join(f"{name}:{role}" for name, role in USERS.items()),
                "simple_auth_manager_passwords_file": self.airflow / "passwords.json",
                "hostname_callable": "socket.gethostname",
            },
            "database": {"sql_alchemy_conn": database},
            "api": {"host": "127.0.0.1", "port": self.port, "base_url": self.url, "secret_key": self._stable},
            "api_auth": {"jwt_secret": self._stable},
            "scheduler": {
                "scheduler_idle_sleep_time": 0.2,
                "scheduler_heartbeat_sec": 2,
                "job_heartbeat_sec": 2,
                "trigger_timeout_check_interval": 1,
            },
            "triggerer": {"job_heartbeat_sec": 2},
            "dag_processor": {"refresh_interval": 60, "min_file_process_interval": 60, "parsing_processes": 1},
            "workers": {"execution_api_timeout": 60, "min_heartbeat_interval": 1},
            "logging": {"base_log_folder": self.airflow / "logs", "colored_console_log": False},
            "metrics": {
                "statsd_on": True,
                "statsd_host": "127.0.0.1",
                "statsd_port": self.gauges.port,
                "statsd_influxdb_enabled": True,  # the tags, in the names
            },
            "usage_data_collection": {"enabled": False},
        }

    @property
    def _stable(self) -> str:
        """A secret that all components share."""
        return self.passwords["admin"] * 3

    def _protocol(self) -> dict[str, Any]:
        def cluster(name: str, **full_backup: Any) -> dict[str, Any]:
            return {
                "connection": {"airflow_conn_id": name},
                "recovery_connection": {"airflow_conn_id": "recovery"},
                "exclude_databases": ["postgres", *(other for other in CLUSTERS if other != name)],
                "full_backup": {"lock_timeout": "10 min", **full_backup},
                "verify_backup": {"application_role": "app"},
                "wal": {"watch": "0 0 1 1 *"},  # by the tests alone
                "copies": {"schedule": "0 0 1 1 *"},
                "recovery": {"approvers": ["admin", "dana"], "four_eyes": True},
            }

        return {
            "version": 1,
            "paths": {
                "backups": str(self.home / "backups"),
                "logs": str(self.home / "backup-logs"),
                "postgres_bin": str(self.protected.bin),
            },
            "repositories": {
                "eu": {"folder": str(self.home / "eu")},
                **{
                    name: {
                        "s3": {
                            "bucket": BUCKET,
                            "prefix": name,
                            "airflow_conn_id": name.replace("-", "_"),
                            "timeout": "5s",
                        }
                    }
                    for name in REGIONS
                },
            },
            "catalog": {"airflow_conn_id": "pgbackup_catalog"},
            "encryption": {
                "recipients": [str(self.key.public)],
                "private_keys": [str(self.key.private)],
                "passphrase_file": str(self.key.passphrase_file),
            },
            "mail": {"sender": "backup@streamflix.example", "recipients": [RECIPIENT]},
            "notifiers": [
                {
                    "class": "airflow.providers.http.notifications.http.HttpNotifier",
                    "arguments": {
                        "http_conn_id": "pager",
                        "json": {"subject": "{{ subject }}", "text": "{{ text }}", "link": "{{ link }}"},
                    },
                }
            ],
            "contacts": [CONTACT],
            "clusters": {
                "streamflix": cluster("streamflix"),
                "library": cluster("library", due="1s", base=False),
                BRANCH: {
                    **cluster(BRANCH),
                    "recovery_connection": {"airflow_conn_id": "branch_recovery"},
                    "exclude_databases": [],
                    "control": {"data_directory": str(self.branch.data)},
                },
            },
        }


StackT = TypeVar("StackT", bound=Stack)


@contextlib.contextmanager
def running_stack(kind: type[StackT] = Stack) -> Iterator[StackT]:  # type: ignore[assignment]
    """Start everything; on the way out, leave nothing."""
    with contextlib.ExitStack() as cleanup:
        home = Path(tempfile.mkdtemp(prefix="e2e", dir="/tmp"))
        home.chmod(0o711)  # throw-away servers may run as another user
        cleanup.callback(shutil.rmtree, home, ignore_errors=True)
        ops = Source()
        cleanup.callback(ops.remove)
        protected = Source()
        cleanup.callback(protected.remove)
        branch = Source()
        cleanup.callback(branch.remove)
        mailbox = Mailbox()
        mailbox.start()
        cleanup.callback(mailbox.stop)
        region = Region()
        cleanup.callback(region.remove)
        ears = Pager(), Gauges()
        for ear in ears:
            ear.start()
            cleanup.callback(ear.stop)
        stack = kind(home, ops, protected, branch, mailbox, region, *ears)
        for way in stack.ways.values():
            cleanup.callback(way.close)
        cleanup.callback(stack.stop)
        stack.fill_ops()
        migration = stack.migrate()
        stack.fill_protected()
        assert migration.wait() == 0, stack.output()
        stack.start()
        yield stack
