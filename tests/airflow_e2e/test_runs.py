"""The DAGs run by a real scheduler: what is green is proved, what went wrong is red, and nobody hears a secret."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from pgbackup.domain import findings
from pgbackup.domain.ids import SUMS
from pgbackup.domain.model import Backup, CopyState, Kind, State, Verdict
from pgbackup.sheet import read_sheet
from pgbackup.watch import names
from tests.airflow_e2e.backups import damage, take
from tests.airflow_e2e.conftest import Night
from tests.airflow_e2e.hold import Hold
from tests.airflow_e2e.processes import ArgvWatch, end, living, programs
from tests.airflow_e2e.rest import Run, eventually
from tests.airflow_e2e.stack import BRANCH, CONTACT, RECIPIENT, REGIONS, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first test waits for Airflow, and for the night


def state_of(stack: Stack, backup_id: str) -> State:
    backup = stack.site().catalog.backup(backup_id)
    assert backup is not None
    return backup.state


def committed(stack: Stack, cluster: str) -> set[str]:
    """What anybody who looks at the repository takes for a backup."""
    return {path.parent.name for path in (stack.backups / "full").glob(f"{cluster}_*/{SUMS}")}


def directories(stack: Stack, cluster: str) -> set[str]:
    return {path.name for path in (stack.backups / "full").glob(f"{cluster}_*")}


def scratch(stack: Stack) -> list[Path]:
    """Decrypted files and throw-away servers; not of the branch, whose fresh bases are proved meanwhile."""
    found = [path for name in ("verify", "latest") for path in (stack.settings.paths.spool_folder / name).glob("*")]
    return [path for path in found if not path.name.startswith(BRANCH)]


# --- the night ---


def test_the_night_ends_with_verified_backups(stack: Stack, night: Night) -> None:
    catalog = stack.site().catalog
    assert {backup_id.rpartition("_")[2] for backup_id in night.verifications} == {"full", "base"}
    for backup_id, run in night.verifications.items():
        assert state_of(stack, backup_id) is State.VERIFIED
        (verification,) = catalog.verifications_of(run.owner)
        assert verification in catalog.verifications(backup_id)
        assert verification.verdict is Verdict.VERIFIED
        assert verification.findings
        assert all(finding.ok for finding in verification.findings)
    assert scratch(stack) == []


def proved_link(stack: Stack, run: Run) -> Backup:
    """Return the backup that a run took, once the run that it triggered has proved it."""
    (backup,) = stack.site().catalog.backups_of(run.owner)
    proof = Run(stack.rest, "streamflix_verify_backup", f"verify__{backup.id}__local__1")
    assert proof.wait() == "success", proof.logs()
    assert state_of(stack, backup.id) is State.VERIFIED
    return backup


def test_an_incremental_run_adds_a_link_that_is_proved_with_its_chain(stack: Stack, night: Night) -> None:
    run = stack.rest.finish("streamflix_incremental_backup")
    assert run.state == "success", run.logs()
    backup = proved_link(stack, run)
    assert (backup.kind, backup.method) == (Kind.INCREMENTAL, "block")
    assert backup.parent in night.verifications

    [known] = [one for one in stack.site().catalog.watched("streamflix") if one.name == findings.LATEST]
    assert (known.ok, known.owner) == (True, run.owner)
    assert backup.id in known.detail
    assert "its own end is the newest moment" in known.detail
    again = stack.rest.finish("streamflix_incremental_backup")
    assert (again.state, again.tasks()["latest"]["state"]) == ("success", "success"), again.logs()
    assert f"not due: proved {known.seen_at:%Y-%m-%d %H:%M} UTC by {run.owner}" in again.logs()
    assert proved_link(stack, again).parent == backup.id
    assert scratch(stack) == []


def test_everybody_hears_of_the_night(stack: Stack, night: Night) -> None:
    captured = stack.wait_for_mail(night.capture, "full backup", "captured")
    assert "counts once that mail says verified" in captured
    mails = [captured]
    for backup_id, run in night.verifications.items():
        assert backup_id in captured
        verified = stack.wait_for_mail(run, "verify backup", "verified", backup_id)
        assert "restored and found equal to its source" in verified
        mails.append(verified)
    for text in mails:
        assert "What to do" in text
        for detail in CONTACT.values():
            assert detail in text
    assert {mail.to for mail in stack.mailbox.mails} == {(RECIPIENT,)}


def test_the_night_updates_the_asset_for_others(stack: Stack, night: Night) -> None:
    answer = stack.rest.get("/assets/events", source_dag_id=night.capture.dag_id, source_run_id=night.capture.run_id)
    (event,) = answer["asset_events"]
    backups = event["extra"]["backups"]
    assert {backup["backup_id"] for backup in backups} == set(night.verifications)
    assert all(backup["bytes"] > 0 for backup in backups)


def test_the_night_is_in_the_log_folder_and_in_the_task_log(stack: Stack, night: Night) -> None:
    logs = {path: path.read_text() for path in stack.settings.paths.logs.iterdir()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in logs} == {0o640}
    for backup_id, run in night.verifications.items():
        captured, verified = f"backup {backup_id} captured", f"backup {backup_id} in local: verified"
        assert captured in night.capture.logs()
        assert verified in run.logs()
        assert any(captured in text for text in logs.values())
        assert any(verified in text for text in logs.values())


# --- red, not green ---


def test_no_verdict_is_red_and_can_be_tried_again(stack: Stack) -> None:
    backup_id = take(stack)
    hidden = stack.key.private.with_suffix(".hidden")
    stack.key.private.rename(hidden)
    try:
        first = stack.rest.finish(
            "library_verify_backup", {"backup_id": backup_id}, run_id=f"verify__{backup_id}__local__1"
        )
    finally:
        hidden.rename(stack.key.private)
    assert first.state == "failed"
    assert state_of(stack, backup_id) is State.CAPTURED
    (verification,) = stack.site().catalog.verifications_of(first.owner)
    assert verification.verdict is None
    text = stack.wait_for_mail(first, "FAILED, no verdict")
    assert stack.key.private.name in text
    assert scratch(stack) == []

    second = stack.rest.finish(
        "library_verify_backup", {"backup_id": backup_id}, run_id=f"verify__{backup_id}__local__2"
    )
    assert second.state == "success", second.logs()
    (verification,) = stack.site().catalog.verifications_of(second.owner)
    assert (verification.attempt, verification.verdict) == (2, Verdict.VERIFIED)
    assert state_of(stack, backup_id) is State.VERIFIED


def test_what_was_missed_is_verified_in_the_morning_and_one_bad_copy_hides_no_other(stack: Stack) -> None:
    good, bad = take(stack), take(stack)
    name = damage(stack, bad)
    run = stack.rest.finish("library_verify_backup")
    assert run.state == "failed"
    verdicts = {one.backup_id: one.verdict for one in stack.site().catalog.verifications_of(run.owner)}
    assert (verdicts[good], verdicts[bad]) == (Verdict.VERIFIED, Verdict.REJECTED)
    assert (state_of(stack, good), state_of(stack, bad)) == (State.VERIFIED, State.REJECTED)
    tries = {task["try_number"] for task in run.tasks().values() if task["task_id"] == "prove.files"}
    assert tries == {1}, "a verdict is not tried again"
    text = stack.wait_for_mail(run, "REJECTED", bad)
    for word in ("verified", "library_full_backup", name):
        assert word in text
    assert scratch(stack) == []


def test_a_server_that_is_down_fails_the_backup(stack: Stack) -> None:
    before = directories(stack, "library")
    stack.protected.stop()
    try:
        run = stack.rest.finish("library_full_backup")
    finally:
        stack.protected.start()
    assert run.state == "failed"
    tasks = run.tasks()
    assert (tasks["preflight"]["state"], tasks["backup"]["state"]) == ("failed", "upstream_failed")
    assert tasks["preflight"]["try_number"] == 3, "it may come back"
    assert "is the server running and reachable" in run.logs()
    text = stack.wait_for_mail(run, "full backup", "FAILED")
    assert "pgbackup doctor" in text
    assert CONTACT["reach"] in text
    assert directories(stack, "library") == before


@pytest.mark.parametrize("backup_id", ["$(touch {canary})", "x; touch {canary}", "../../etc/passwd", "", 7])
def test_what_is_no_backup_id_is_refused_before_anything_runs(stack: Stack, backup_id: object) -> None:
    canary = stack.home / "canary"
    given = backup_id.format(canary=canary) if isinstance(backup_id, str) else backup_id
    answer = stack.rest.post_run("library_verify_backup", {"backup_id": given})
    assert answer.status_code == 400, answer.text
    assert not canary.exists()


def test_a_run_with_what_nobody_reads_or_nobody_knows_fails(stack: Stack) -> None:
    canary = stack.home / "canary"
    known = take(stack)
    runs = {
        "unknown keys in the run's configuration: 'bakup_id'": ("library_full_backup", {"bakup_id": known}),
        "in repository local; touch": (
            "library_verify_backup",
            {"backup_id": known, "repository": f"local; touch {canary} $(touch {canary})"},
        ),
        "streamflix_20260101_020000_full is not a backup of library": (
            "library_verify_backup",
            {"backup_id": "streamflix_20260101_020000_full"},
        ),
    }
    triggered = {message: stack.rest.trigger(dag_id, conf) for message, (dag_id, conf) in runs.items()}
    for message, run in triggered.items():
        assert run.wait() == "failed"
        assert message in run.logs()
        assert stack.site().catalog.backups_of(run.owner) == ()
        assert stack.site().catalog.verifications_of(run.owner) == ()
    assert not canary.exists()
    assert state_of(stack, known) is State.CAPTURED


# --- the watch ---


def watch(stack: Stack, conf: dict[str, str] | None = None) -> Run:
    return stack.rest.finish("library_wal_watch", conf)


def watch_mails(stack: Stack, *words: str) -> list[str]:
    """The texts of the mails of `library`'s watch. A run's mail may be sent when the next one has ended."""
    mails = [mail for mail in stack.mailbox.mails if "[library] wal watch" in mail.subject]
    return [mail.text for mail in mails if all(word in mail.subject for word in words)]


def wait_for_watch_mail(stack: Stack, *words: str) -> str:
    (text,) = eventually(lambda: watch_mails(stack, *words), f"a mail of the watch: {words}")
    return text


def kept(stack: Stack, finding: str) -> bool:
    return any(finding in one.message.html for one in stack.site().catalog.unsent())


def test_the_watch_tells_each_change_once_and_later_what_it_could_not_send(stack: Stack) -> None:
    password, stack.mailbox.password = stack.mailbox.password, "changed by somebody"
    try:
        unheard = watch(stack)
        eventually(lambda: stack.mailbox.refused, "a mail that is refused")
        eventually(lambda: kept(stack, names.SLOT), "a mail that is kept after the last try")
    finally:
        stack.mailbox.password = password
    assert unheard.state == "failed"
    assert unheard.tasks()["watch"]["try_number"] == 1, "a verdict is not tried again"
    for finding in (names.SLOT, names.RECEIVER):
        assert f"HINT: {finding}" in unheard.logs()

    assert watch(stack).state == "failed"
    text = wait_for_watch_mail(stack, "FAILED", names.SLOT, names.RECEIVER)
    assert "What to do" in text
    assert "pgbackup wal create-slot" in text
    assert CONTACT["reach"] in text
    assert watch(stack).state == "failed"
    stack.protected.execute("SELECT pg_create_physical_replication_slot('pgbackup', true)")
    watch(stack)
    assert "Fails as told before" in wait_for_watch_mail(stack, "holds again", names.SLOT)
    assert len(watch_mails(stack, names.SLOT)) == 2, "what else has changed meanwhile has mails of its own"
    stack.protected.execute("SELECT pg_drop_replication_slot('pgbackup')")


def test_a_watch_that_ended_before_it_judged_is_told(stack: Stack) -> None:
    assert watch(stack, {"nobody reads": "this"}).state == "failed"
    wait_for_watch_mail(stack, "FAILED", names.FINISHED)
    watch(stack)
    wait_for_watch_mail(stack, "holds again", names.FINISHED)


def test_a_silent_catalog_is_told_and_hides_nothing(stack: Stack) -> None:
    stack.ops.execute("ALTER ROLE catalog NOLOGIN")
    try:
        run = watch(stack)
        text = wait_for_watch_mail(stack, "FAILED", names.CATALOG)
    finally:
        stack.ops.execute("ALTER ROLE catalog LOGIN")
    assert run.state == "failed"
    assert names.RECEIVER in run.logs()
    assert "the run's log says what else fails" in text


# --- the regions ---


def damage_far(stack: Stack, repository: str, backup_id: str) -> None:
    """Put other bytes under the key of a dump in a region."""
    store, key = stack.site().repositories[repository], f"full/{backup_id}/library.dump.gpg"
    content = store.read(key)
    store.delete(key)
    with store.create(key) as sink:
        sink.write(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_region_that_is_down_delays_nothing_and_each_copy_is_proved(stack: Stack, night: Night) -> None:
    """The others have the copy, its proof runs, people hear of what is behind; the next run brings what is missing, and
    what a verification found damaged.
    """
    site = stack.site()
    others, (up, down) = tuple(stack.settings.repositories), REGIONS
    stack.ways[down].refusing = True
    try:
        run = stack.rest.finish("library_full_backup")
        (backup,) = site.catalog.backups_of(run.owner)
        proof = Run(stack.rest, "library_verify_backup", f"verify__{backup.id}__local__1")
        assert proof.wait() == "success", proof.logs()
    finally:
        stack.ways[down].heal()
    tasks = run.tasks()
    copied = {name: tasks[f"copy[{number}]"]["state"] for number, name in enumerate(sorted(others))}
    assert copied == {name: "failed" if name == down else "success" for name in others}
    assert (run.state, tasks["backup"]["state"], tasks["sheet"]["state"]) == ("failed", "success", "failed")
    assert state_of(stack, backup.id) is State.VERIFIED
    assert {copy.repository for copy in site.catalog.copies(backup.id)} == {"local", *others} - {down}

    late = f"UPDATE backup_log SET finished_at = finished_at - interval '1 day' WHERE id = '{backup.id}'"
    stack.ops.execute(late, "catalog")
    watch(stack)
    assert backup.id in wait_for_watch_mail(stack, "FAILED", names.backups_in(down))
    damage_far(stack, up, backup.id)
    judged = stack.rest.finish("library_verify_backup", {"backup_id": backup.id, "repository": up})
    assert judged.state == "failed"
    assert {copy.repository: copy.state for copy in site.catalog.copies(backup.id)}[up] is CopyState.DAMAGED
    assert state_of(stack, backup.id) is State.VERIFIED

    again = stack.rest.finish("library_full_backup")
    assert again.state == "success", again.logs()
    held = {copy.repository: copy.state for copy in site.catalog.copies(backup.id)}
    assert held == {"local": CopyState.VERIFIED, **dict.fromkeys(others, CopyState.STORED)}
    watch(stack)
    wait_for_watch_mail(stack, "holds again", names.backups_in(down))
    assert {read_sheet(site, store).splitlines()[0] for store in site.repositories.values()} == {"# Recovery sheet"}
    for backup_id in night.verifications:
        assert {copy.repository for copy in site.catalog.copies(backup_id)} == {"local", *others}

    morning = stack.rest.finish("library_verify_backup")
    assert morning.state == "success", morning.logs()
    proved = {one.repository for one in site.catalog.verifications_of(morning.owner) if one.verdict == "verified"}
    assert proved == {"local", *others}, "one copy of each"


# --- ended from outside ---


def held_dump(stack: Stack, hold: Hold) -> tuple[Run, int]:
    """Start a backup of `library` and stop it in the middle of pg_dump; return the run and the task's process."""
    run = stack.rest.trigger("library_full_backup")
    hold.let_pg_dump_start()
    dumps = eventually(lambda: programs(stack.home, "pg_dump"), "pg_dump")
    eventually(lambda: programs(stack.home, "gpg"), "gpg")
    return run, dumps[0].parent


def wait_for_end(stack: Stack, pid: int) -> None:
    eventually(lambda: pid not in {process.pid for process in living(stack.home)}, f"the end of process {pid}")


def test_a_backup_marked_failed_ends_with_all_it_started(stack: Stack, argv_watch: ArgvWatch) -> None:
    """And, as it is late by then, the alert of its deadline was sent while it still ran."""
    before = committed(stack, "library")
    with Hold(stack.protected) as hold:
        run, task = held_dump(stack, hold)
        for process in programs(stack.home, "pg_dump", "gpg"):
            assert not [name for name, secret in stack.secrets.items() if secret.encode() in process.environment]
        alert = stack.wait_for_mail(run, "full backup", "takes longer")
        assert run.state == "running"
        assert "What to do" in alert

        run.fail_task("backup")
        eventually(lambda: not programs(stack.home, "pg_dump", "gpg"), "the end of pg_dump and gpg")
        wait_for_end(stack, task)
    assert run.wait() == "failed"
    assert committed(stack, "library") == before
    stack.wait_for_mail(run, "full backup", "FAILED")

    backup_id = take(stack)
    assert committed(stack, "library") == directories(stack, "library") == {*before, backup_id}
    assert {backup.state for backup in stack.site().catalog.backups_of(run.owner)} == {State.FAILED}


def test_a_task_killed_in_the_middle_of_a_dump_is_tried_again(stack: Stack, argv_watch: ArgvWatch) -> None:
    before = committed(stack, "library")
    with Hold(stack.protected) as hold:
        run, task = held_dump(stack, hold)
        end(task)
        wait_for_end(stack, task)
    assert run.wait() == "success", run.logs()
    assert run.tasks()["backup"]["try_number"] == 2
    good, killed = stack.site().catalog.backups_of(run.owner)
    assert killed.state is State.FAILED
    assert committed(stack, "library") == directories(stack, "library") == {*before, good.id}
    verification = Run(stack.rest, "library_verify_backup", f"verify__{good.id}__local__1")
    assert verification.wait() == "success", verification.logs()


# --- secrets ---


def dumped(stack: Stack, database: str) -> bytes:
    """All that a database of the ops server holds: of Airflow's, XComs, rendered templates, configurations, events."""
    argv = [str(stack.ops.bin / "pg_dump"), "-h", str(stack.ops.folder), "-p", str(stack.ops.port), "-U", "postgres"]
    return subprocess.run([*argv, "--data-only", database], check=True, capture_output=True).stdout


def test_no_secret_is_anywhere(stack: Stack, night: Night, argv_watch: ArgvWatch) -> None:
    """To be run last: it reads what all tests before it left."""
    airflow_logs = [path for path in (stack.airflow / "logs").rglob("*") if path.is_file()]
    places = {
        "task logs": b"".join(path.read_bytes() for path in airflow_logs),
        "components' output": "".join(stack.output().values()).encode(),
        "log folder": b"".join(path.read_bytes() for path in stack.settings.paths.logs.iterdir()),
        "Airflow's database": dumped(stack, "airflow"),
        "catalog": dumped(stack, "catalog"),
        "mails": stack.mailbox.raw,
        "manifests": b"".join(path.read_bytes() for path in stack.backups.glob("full/*/manifest.json")),
    }
    assert [place for place, content in places.items() if night.full.encode() not in content] == []
    found = [
        (place, name)
        for place, content in places.items()
        for name, secret in stack.secrets.items()
        if secret.encode() in content
    ]
    assert {"pg_dump", "gpg", "pg_restore", "initdb"} <= argv_watch.names
    assert (found, argv_watch.seen) == ([], set())
