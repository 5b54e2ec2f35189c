"""Airflow's settings for the demo: one environment for its four components, nothing in argv."""

import json
from collections.abc import Mapping

from demo.layout import LOOPBACK, Layout, write_private

ADMIN = "admin"


def connections(ports: Mapping[str, int], secrets: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """The connections that the DAGs use, by connection id."""

    def server(port: int, database: str, login: str, password: str) -> dict[str, object]:
        place = {"conn_type": "postgres", "host": LOOPBACK, "port": port, "schema": database}
        return {**place, "login": login, "password": password}

    streamflix, ops = ports["streamflix"], ports["ops"]
    return {
        "streamflix": server(streamflix, "streamflix", "backup", secrets["backup"]),
        "streamflix_superuser": server(streamflix, "streamflix", "postgres", secrets["streamflix_superuser"]),
        "pgbackup_catalog": server(ops, "pgbackup_catalog", "pgbackup_catalog", secrets["pgbackup_catalog"]),
        "pgbackup_smtp": {
            "conn_type": "smtp",
            "host": LOOPBACK,
            "port": ports["smtp"],
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "backup@streamflix.example"},
        },
    }


def settings(layout: Layout, ports: Mapping[str, int], secrets: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """airflow.cfg as sections of options."""
    url = f"http://{LOOPBACK}:{ports['ui']}"
    database = f"postgresql+psycopg://airflow:{secrets['airflow_database']}@{LOOPBACK}:{ports['ops']}/airflow"
    return {
        "core": {
            "dags_folder": layout.root / "dags",
            "plugins_folder": layout.root / "plugins",
            "executor": "LocalExecutor",
            "parallelism": 4,
            "load_examples": False,
            "fernet_key": secrets["fernet"],
            "execution_api_server_url": f"{url}/execution/",
            "simple_auth_manager_users": f"{ADMIN}:admin",
            "simple_auth_manager_passwords_file": layout.airflow / "passwords.json",
            "hostname_callable": "socket.gethostname",  # the default asks the name service
        },
        "database": {"sql_alchemy_conn": database},
        "api": {"host": LOOPBACK, "port": ports["ui"], "base_url": url, "secret_key": secrets["api_secret"]},
        "api_auth": {"jwt_secret": secrets["jwt"]},
        "scheduler": {
            "scheduler_idle_sleep_time": 0.2,
            "scheduler_heartbeat_sec": 2,
            "job_heartbeat_sec": 2,
            "orphaned_tasks_check_interval": 15,  # tasks of a demo that was killed are tried again soon
            "task_instance_heartbeat_timeout": 60,
        },
        "dag_processor": {"refresh_interval": 15, "min_file_process_interval": 15, "parsing_processes": 1},
        "triggerer": {"job_heartbeat_sec": 2},
        "logging": {
            "base_log_folder": layout.airflow / "logs",
            "file_task_handler_new_folder_permissions": "0o750",
            "file_task_handler_new_file_permissions": "0o640",
            "colored_console_log": False,
        },
        "usage_data_collection": {"enabled": False},
        "execution_api": {"jwt_expiration_time": 3600},
        "workers": {"execution_api_timeout": 30},  # two cores, everything starting at once
    }


def environment(layout: Layout, ports: Mapping[str, int], secrets: Mapping[str, str]) -> dict[str, str]:
    """What Airflow's processes find in their environment besides the caller's own."""
    options = {
        f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
        for section, values in settings(layout, ports, secrets).items()
        for option, value in values.items()
    }
    conns = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections(ports, secrets).items()}
    return {
        **options,
        **conns,
        "AIRFLOW_HOME": str(layout.airflow),
        "PGBACKUP_CONFIG": str(layout.protocol),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore:GitWildMatchPattern:DeprecationWarning",  # in every log
    }


def write_passwords(layout: Layout, secrets: Mapping[str, str]) -> None:
    """Tell the simple auth manager the password of its one user."""
    write_private(layout.airflow / "passwords.json", json.dumps({ADMIN: secrets["ui_admin"]}))
