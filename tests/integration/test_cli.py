"""The command line as its user calls it: a process, a configuration file, exit codes, JSON."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from tests.support import aged
from tests.support.keys import KeyPair, make_key
from tests.support.s3 import ACCESS, BUCKET, SECRET, Region
from tests.support.source import Source, write_services

from pgbackup.assembly import build_site, load_settings, service_parameters
from pgbackup.domain.model import Finding
from pgbackup.domain.prospect import Keeping, Prospect, Reachable
from pgbackup.overview import overview
from pgbackup.shelf import kept_reports, read_report
from pgbackup.store import LocalStore
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
    write_services(tmp_path / "pg_service.conf", services)
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
    assert "repository local" in done.stdout


def test_doctor_says_what_the_watch_is_silent_about(shell: Shell) -> None:
    def last_look() -> dict[str, Any]:
        checks = json.loads(shell.run("doctor", "--json").stdout)["streamflix"]
        (found,) = [one for one in checks if one["name"] == names.FINISHED]
        return dict(found)

    assert (last_look()["ok"], last_look()["detail"]) == (True, "it never ran")
    catalog = build_site(load_settings(shell.config), service_parameters, owner="test").catalog
    now = datetime.now(UTC)
    finished, unserved = Finding(names.FINISHED, True, 0.0), Finding(names.FINISHED, False, 0.0, "no worker", "start")
    for finding, ago, wanted in ((finished, 2, True), (finished, 25, False), (unserved, 1, False)):
        catalog.saw("streamflix", [finding], owner="run", now=now - timedelta(minutes=ago))
        assert last_look()["ok"] is wanted
    assert (last_look()["detail"], last_look()["hint"]) == ("no worker", "start")


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


def test_status_says_what_the_page_says_and_exit_0_is_well(shell: Shell) -> None:
    nothing = shell.run("status")
    assert (nothing.returncode, nothing.stderr) == (1, "")
    assert "no backup is verified" in nothing.stdout
    assert "streamflix_full_backup" in nothing.stdout, "what to do"

    site = build_site(load_settings(shell.config), service_parameters, owner="test")
    now = site.clock()
    backup_id = aged.stored(site, now)
    reason = "[bold]for[/] <script>"
    held = Keeping(backup_id, "dana", reason, now + timedelta(days=1))
    window = Reachable(1, now - timedelta(days=9), now)
    site.catalog.looked(Prospect("streamflix", now, (window,), (), (), (held,), 0, 60.0, ""))
    site.catalog.saw("streamflix", (Finding("a gap", True, 0.0),), owner="test", now=now)
    well = shell.run("status", "--cluster", "streamflix")
    assert well.returncode == 0, well.stdout
    said = " ".join(well.stdout.split())
    for words in (
        "streamflix recoverable",
        f"can be recovered {window.earliest:%Y-%m-%d %H:%M:%S} UTC to {now:%Y-%m-%d %H:%M:%S} UTC",
        "60 s predicted, 4 h allowed",
        f"last verified backup {overview(site, 'streamflix').summary.last_verified:%Y-%m-%d %H:%M:%S} UTC",
        "copies in local 1 copies, 1 verified",
        f"held {backup_id} by dana: {reason}",
        "findings 1 of 1 hold",
    ):
        assert words in said

    site.catalog.saw(
        "streamflix", (Finding("a gap", False, 0.0, "one [red]segment[/]", "look"),), owner="test", now=now
    )
    bad = shell.run("status")
    assert bad.returncode == 1
    assert "a gap: one [red]segment[/]" in bad.stdout
    assert "HINT: look" in bad.stdout
    (document,) = json.loads(shell.run("status", "--json").stdout)
    assert document["summary"]["level"] == "bad"
    assert [one["id"] for one in document["backups"]] == [backup_id]
    assert shell.run("status", "--cluster", "nobody").returncode == 2

    shell.change(catalog={"service": "nowhere"})
    silent = shell.run("status")
    assert (silent.returncode, silent.stdout) == (3, "")
    assert "HINT" in silent.stderr


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
    matrix = " ".join(shell.run("copies").stdout.split())
    assert f"{backup_id} stored stored -" in matrix
    assert "us lacks 1 backups DETAIL: repository us does not answer" in matrix
    assert "HINT: pgbackup copy --to us" in matrix
    assert "eu lacks" not in matrix
    assert shell.run("copy", "--to", "eu", **environment).returncode == 0
    assert shell.run("copy", "--to", "nowhere").returncode == 2
    assert shell.run("copy", "--from", "eu").returncode == 2
    (shell.folder / "backups" / "full" / backup_id / "globals.sql.gpg").unlink()
    assert shell.run("copy", backup_id, "--to", "us", **environment).returncode != 0
    assert shell.run("copy", backup_id, "--from", "eu", "--to", "local", **environment).returncode == 0
    checked = json.loads(shell.run("doctor", "--json", **environment).stdout)
    found = {name: all(one["ok"] for one in findings) for name, findings in checked.items() if "repository" in name}
    assert found == {"repository local": True, "repository eu": True, "repository us": False}
    assert shell.run("verify", backup_id, "--repository", "eu", **environment).returncode == 0
    assert shell.run("catalog", "rebuild", "--from", "eu", **environment).returncode == 0


def test_keys_signatures_and_what_they_open(shell: Shell, tmp_path: Path) -> None:
    """A signature that is lost is given again; then the keys change, and the backup opens to the new one."""
    signer, new = make_key(tmp_path, "signer", encrypts=False), make_key(tmp_path, "new")
    encryption = {
        **shell.document["encryption"],
        "signing_key": str(signer.private),
        "signing_passphrase_file": str(signer.passphrase_file),
        "verify_keys": [str(signer.public)],
    }
    shell.change(encryption=encryption)
    [made] = shell.json("backup", "full", "--dump-only")
    folder = tmp_path / "backups" / "full" / made["id"]
    (folder / "SHA256SUMS.sig").unlink()
    refused = shell.run("keys", "check", "--json")
    assert refused.returncode == 1
    assert "there is no signature" in json.loads(refused.stdout)[0]["detail"]
    refused = shell.run("catalog", "rebuild", "--json")
    error = json.loads(refused.stderr)
    assert (refused.returncode, json.loads(refused.stdout), error["exit_code"]) == (1, [], 1)
    assert error["error"] == f"{made['id']} is not recorded"
    assert "there is no signature" in error["detail"]
    told = shell.run("catalog", "rebuild")
    assert told.returncode == 1
    assert "0 backups recorded from local, 1 refused" in told.stdout
    assert "HINT: " in told.stderr
    assert shell.json("keys", "sign")["signed"] == [f"full/{made['id']}/SHA256SUMS.sig"]
    assert shell.json("catalog", "rebuild") == [made["id"]]

    changed = {**encryption, "recipients": [str(new.public)], "escrow": [str(new.public)]}
    shell.change(encryption=changed)
    assert shell.json("keys", "report")["lost"] == [made["id"]]
    done = shell.json("keys", "add")
    assert (done["added"], done["failures"]) == ([f"full/{made['id']}/key.2.gpg"], {})
    table = shell.run("keys", "report").stdout
    assert "escrow" in table
    assert "1 of 1" in table
    assert "none of today's recipients" not in table
    private = {"private_keys": [str(new.private)], "passphrase_file": str(new.passphrase_file)}
    shell.change(encryption={**changed, **private})
    assert all(finding["ok"] for finding in shell.json("keys", "check"))
    (folder / "key.2.gpg").unlink()
    assert shell.run("keys", "add").returncode == 1


def test_an_audit_is_no_until_what_it_found_is_mended(shell: Shell) -> None:
    (shell.folder / "pg_service.conf").chmod(0o600)
    backups = shell.folder / "backups"
    backups.mkdir(mode=0o755)
    done = shell.run("audit", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert list(found) == ["this machine", "local"]
    (failed,) = [one for findings in found.values() for one in findings if not one["ok"]]
    assert (failed["name"], failed["severity"]) == ("files and folders are private", "failure")
    settings = load_settings(shell.config)
    assert kept_reports(settings, "streamflix") == ()
    assert shell.run("audit", "--keep").returncode == 1
    kept = {one.procedure: one for one in kept_reports(settings, "streamflix")}
    assert set(kept) == {"quarterly_audit_this_machine", "quarterly_audit_local"}
    report = kept["quarterly_audit_local"]
    assert report.headline == "streamflix: quarterly audit of local: FAILED"
    html = read_report(settings, "streamflix", report.name)
    assert failed["hint"] in unescape(html)
    assert "href" not in html
    backups.chmod(0o700)
    done = shell.run("audit", "--repository", "local", "--keep")
    assert done.returncode == 0, done.stdout
    assert "backups are encrypted" in done.stdout
    [path] = re.findall(r"^kept as (.+)$", done.stdout, re.MULTILINE)
    assert "nothing has to be mended" in Path(path).read_text()
    assert shell.run("audit", "--repository", "nowhere").returncode == 2


def test_a_rotation_is_shown_done_and_hindered_by_holds(shell: Shell, server: Source, catalog_dsn: str) -> None:
    site = build_site(load_settings(shell.config), service_parameters, owner="test")
    moments = [datetime.now(UTC) - timedelta(days=days) for days in (402, 401, 400, 1)]
    first, held, going, newest = (aged.stored(site, moment) for moment in moments)
    [shown] = shell.json("plan-rotation")
    why = {one["id"]: one["rules"] for one in shown["backups"]}
    assert (why[held], why[going]) == ([], [])
    assert "newest verified" in why[newest]
    assert shown["bytes"] == sum(one["bytes"] for one in shown["backups"] if not one["rules"]) > 0

    [hold] = shell.json("hold", "add", held, "--reason", "the auditor | asks", "--for", "30d")
    assert (hold["backup_id"], hold["reason"]) == (held, "the auditor | asks")
    assert [one["id"] for one in shell.json("hold", "list")] == [hold["id"]]
    told = shell.run("plan-rotation", COLUMNS="200")
    assert told.returncode == 0
    for word in ("backup", "why", "size", going, "no rule keeps it", "the auditor | asks", "1 of 4", "MB are freed"):
        assert word in told.stdout

    (store := LocalStore(site.settings.paths.backups)).delete(f"full/{first}/d.dump")
    done = shell.run("rotate", "--json")
    assert done.returncode == 1, "something is wrong with one of them"
    [applied] = json.loads(done.stdout)
    assert applied["backups"] == [going]
    assert applied["bytes"] > 0
    assert any(first in failure and "d.dump" in failure for failure in applied["failures"])
    aged.put(store, f"full/{first}/d.dump", aged.DATA)

    assert shell.json("hold", "release", hold["id"]) == {"released": hold["id"]}
    assert "no hold" in shell.run("hold", "release", hold["id"]).stderr
    told = shell.run("rotate", COLUMNS="200")
    assert told.returncode == 0, told.stderr
    assert "1 backups and 0 WAL segments deleted" in told.stdout
    assert {one["id"]: one["state"] for one in shell.json("list")} == {
        first: "verified", held: "expired", going: "expired", newest: "verified",
    }  # fmt: skip
    with psycopg.connect(catalog_dsn) as connection:
        connection.execute("TRUNCATE backup_log CASCADE")
    for command in ("plan-rotation", "rotate"):
        refused = shell.run(command, "--json")
        assert refused.returncode == 1
        assert "pgbackup catalog rebuild --from local" in json.loads(refused.stderr)["hint"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("plan-rotation", "--cluster", "gone"), 2),
        (("plan-rotation", "--repository", "moon"), 2),
        (("rotate", "--repository", "moon"), 2),
        (("hold", "add", "streamflix_20260131_020000_full", "--reason", "r", "--for", "soon"), 2),
        (("hold", "add", "streamflix_20260131_020000_full", "--reason", "r"), 1),
        (("hold", "release", "0123456789abcdef"), 1),
    ],
)
def test_exit_codes_of_the_rotation(shell: Shell, arguments: tuple[str, ...], status: int) -> None:
    assert shell.run(*arguments).returncode == status
