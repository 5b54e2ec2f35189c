"""The command line as its user calls it: a process, a configuration file, exit codes, JSON."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.keys import KeyPair
from tests.support.s3 import ACCESS, BUCKET, SECRET, Region
from tests.support.source import Source

from pgbackup.watch import names


@dataclass
class Shell:
    """A folder with a configuration, and the program."""

    folder: Path
    config: Path
    document: dict[str, Any]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("pgbackup")), *arguments]
        env = {**os.environ, "PGBACKUP_CONFIG": str(self.config), **environment}
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def change(self, **parts: Any) -> None:
        self.config.write_text(yaml.safe_dump({**self.document, **parts}))


@pytest.fixture
def shell(tmp_path: Path, streamflix: Source, key: KeyPair, catalog_dsn: str) -> Shell:
    catalog = dict(part.split("=") for part in catalog_dsn.split())
    services = {
        "streamflix": {"host": "127.0.0.1", "port": streamflix.port, "user": "backup", "dbname": "streamflix"},
        "catalog": catalog,
    }
    text = "\n".join(f"[{name}]\n" + "".join(f"{k}={v}\n" for k, v in one.items()) for name, one in services.items())
    (tmp_path / "pg_service.conf").write_text(text)
    passfile = tmp_path / "pgpass"
    passfile.touch(mode=0o600)
    passfile.write_text(f"127.0.0.1:{streamflix.port}:*:backup:{streamflix.password}\n")
    document = {
        "version": 1,
        "paths": {
            "backups": str(tmp_path / "backups"),
            "logs": str(tmp_path / "logs"),
            "service_file": str(tmp_path / "pg_service.conf"),
            "postgres_bin": str(streamflix.bin),
        },
        "catalog": {"service": "catalog"},
        "encryption": {
            "recipients": [str(key.public)],
            "private_keys": [str(key.private)],
            "passphrase_file": str(key.passphrase_file),
        },
        "clusters": {
            "streamflix": {
                "connection": {"service": "streamflix", "passfile": str(passfile)},
                "exclude_databases": [f"catalog{number}" for number in range(5000)],
                "verify_backup": {
                    "application_role": "app",
                    "queries": [{"database": "streamflix", "sql": 'SELECT count(*) FROM "Title"'}],
                },
            }
        },
    }
    config = tmp_path / "protocol.yaml"
    shell = Shell(tmp_path, config, document)
    shell.change()
    return shell


def test_back_up_verify_list_show(shell: Shell) -> None:
    assert shell.json("list") == []
    made, base = shell.json("backup", "full", "--verify")
    assert [one["verification"]["verdict"] for one in (made, base)] == ["verified", "verified"]
    listed = {one["id"]: one for one in shell.json("list")}
    assert set(listed) == {made["id"], base["id"]}
    listed = listed[made["id"]]
    assert listed["state"] == "verified"
    assert listed["copies"][0]["verified_at"]
    assert set(listed) >= {
        "id", "kind", "method", "state", "cluster", "backup_time", "started_at", "finished_at", "bytes", "parent",
        "copies",
    }  # fmt: skip
    again = shell.json("verify", made["id"])
    assert set(again) >= {"id", "verdict", "repository", "seconds", "findings"}
    assert all(set(finding) == {"name", "ok", "seconds", "detail", "hint"} for finding in again["findings"])
    assert {"application role connects", "application queries answer in time"} <= {
        finding["name"] for finding in again["findings"]
    }
    assert len(shell.json("show", made["id"])["verifications"]) == 2


def test_nobody_else_reads_backups_and_logs(shell: Shell) -> None:
    shell.json("backup", "full", "--dump-only")
    for path in (shell.folder / "backups").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    logs = list((shell.folder / "logs").iterdir())
    assert logs
    assert {stat.S_IMODE(path.stat().st_mode) for path in logs} == {0o640}


def test_a_rejected_backup_is_exit_1(shell: Shell) -> None:
    [made] = shell.json("backup", "full", "--dump-only")
    [dump] = (shell.folder / "backups" / "full" / made["id"]).glob("streamflix.dump.gpg")
    data = bytearray(dump.read_bytes())
    data[len(data) // 2] ^= 1
    dump.write_bytes(data)
    done = shell.run("verify", made["id"], "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["verdict"] == "rejected"
    assert not document["findings"][0]["ok"]
    assert shell.json("list")[0]["state"] == "rejected"


def test_a_verifier_without_its_key_is_exit_3_and_no_verdict(shell: Shell) -> None:
    [made] = shell.json("backup", "full", "--dump-only")
    encryption = {key: value for key, value in shell.document["encryption"].items() if key == "recipients"}
    shell.change(encryption=encryption)
    done = shell.run("verify", made["id"])
    assert done.returncode == 3
    assert "HINT" in done.stderr
    assert shell.json("list")[0]["state"] == "captured"
    assert shell.json("show", made["id"])["verifications"][0]["verdict"] is None


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("verify", "not an id"), 2),
        (("verify", "streamflix_20200101_000000_full"), 1),
        (("verify", "other_20200101_000000_full"), 2),
        (("show", "streamflix_20200101_000000_full"), 1),
        (("backup", "full", "--cluster", "streamflx"), 2),
        (("list", "--config", "/nonexistent/protocol.yaml"), 2),
        (("catalog", "rebuild", "--from", "mars"), 2),
        (("no-such-command",), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_exit_codes(shell: Shell, arguments: tuple[str, ...], status: int) -> None:
    done = shell.run(*arguments)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_json_when_asked(shell: Shell) -> None:
    done = shell.run("verify", "streamflix_20200101_000000_full", "--json")
    assert json.loads(done.stderr.splitlines()[-1])["exit_code"] == done.returncode


def test_a_rebuilt_catalog_gives_the_same_answers(shell: Shell, server: Source, catalog_dsn: str) -> None:
    first, _ = shell.json("backup", "full", "--verify")
    shell.json("backup", "full", "--dump-only")
    before = shell.json("list"), [shell.json("show", one["id"])["verifications"] for one in shell.json("list")]
    name = catalog_dsn.split("dbname=")[1]
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    server.execute(f"CREATE DATABASE {name}")
    assert first["id"] in shell.json("catalog", "rebuild")
    after = shell.json("list"), [shell.json("show", one["id"])["verifications"] for one in shell.json("list")]
    assert after == before


def test_doctor_names_what_is_missing(shell: Shell) -> None:
    encryption = {**shell.document["encryption"], "recipients": ["/nonexistent/key.asc"]}
    shell.change(encryption=encryption)
    done = shell.run("doctor")
    assert done.returncode == 3
    assert "unknown recipient" in done.stdout


def test_watch_answers_without_airflow(shell: Shell) -> None:
    """There is no receiver and no backup: both ways to print it say so, and what to do."""
    done = shell.run("watch", "--json")
    assert done.returncode == 1
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["streamflix"]}
    assert {name for name, finding in findings.items() if finding["ok"]} >= {names.SERVER, names.CATALOG}
    assert not findings[names.SLOT]["ok"]
    assert findings[names.BACKUP]["hint"]
    done = shell.run("watch")
    assert done.returncode == 1
    assert names.SLOT in done.stdout
    assert "HINT: `pgbackup wal create-slot`" in done.stdout


def test_drills_are_done_and_listed_and_one_that_fails_is_exit_1(shell: Shell) -> None:
    failed = shell.run("drill", "run", "--scenario", "table")
    assert failed.returncode == 1
    assert "no verified full backup" in failed.stdout
    shell.json("backup", "full", "--dump-only", "--verify")
    done = shell.json("drill", "run", "--scenario", "table")
    assert [(one["scenario"], one["ok"], len(one["findings"])) for one in done] == [("table", True, 7)]
    assert done[0]["rto_seconds"] > 0
    listed = shell.json("drill", "list")
    assert [one["ok"] for one in listed] == [True, False]
    assert listed[:1] == done
    text = shell.run("drill", "list").stdout
    assert [line.split()[3] for line in text.splitlines()[1:]] == ["yes", "NO"]


def test_copies_go_to_every_repository_that_answers(shell: Shell, region: Region) -> None:
    """One region answers, one is nowhere: the first has everything, the exit code and the matrix tell of the second."""
    folder = shell.folder.name
    shell.change(
        repositories={
            "eu": {"s3": {"bucket": BUCKET, "prefix": folder, "profile": "eu"}},
            "us": {"s3": {"bucket": BUCKET, "profile": "us", "timeout": "1s"}},
        }
    )
    profile = f"region = us-east-1\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n"
    aws = shell.folder / "aws"
    aws.write_text(
        f"[profile eu]\nendpoint_url = {region.endpoint}\n{profile}"
        f"[profile us]\nendpoint_url = http://127.0.0.1:1\n{profile}"
    )
    environment = {"AWS_CONFIG_FILE": str(aws)}
    backup_id = shell.json("backup", "full", "--dump-only")[0]["id"]
    done = shell.run("copy", "--json", **environment)
    assert done.returncode == 3
    assert json.loads(done.stdout)["eu"]["backups"] == [backup_id]
    assert "us does not answer" in done.stderr
    assert SECRET not in done.stderr
    found = shell.json("copies")
    assert found["backups"] == [{"id": backup_id, "local": "stored", "eu": "stored", "us": "-"}]
    assert found["wal"]["eu"]["missing"] == 0
    assert found["wal"]["us"]["behind_seconds"] is None
    assert f"{backup_id} stored stored -" in " ".join(shell.run("copies").stdout.split())
    assert shell.run("copy", "--to", "eu", **environment).returncode == 0
    assert shell.run("copy", "--to", "nowhere").returncode == 2
    assert shell.run("verify", backup_id, "--repository", "eu", **environment).returncode == 0
    assert shell.run("catalog", "rebuild", "--from", "eu", **environment).returncode == 0
