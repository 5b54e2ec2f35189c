"""The printed commands for a recovery without us: stock tools bring back every row up to a moment, or to the end."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.archiving import archiving
from tests.support.keys import KeyPair
from tests.support.script_archive import SCRIPTS, TOOLS, ask, wait
from tests.support.site import make_site
from tests.support.source import ROOT, SAMPLE, Source, free_port, programs

from pgbackup.capture import capture_base, capture_incremental
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site
from pgbackup.postgres.throwaway import _PREFIX, _isolation

ROWS = "SELECT count(*) FROM entry"
QUESTION = (
    f'psql --host="$work" --port="$port" --username=postgres --no-align --tuples-only --command="{ROWS}" postgres'
)
# The commands run as an account that is not root, and find nothing but what they are said to need.
AS_NOBODY = _PREFIX["user" if _isolation() == "namespace" else _isolation()]
NEEDED = f"{TOOLS} chmod cp gpg-agent sed sleep tail tar touch"


@dataclass(frozen=True)
class Lost:
    """A server that is gone: its backups, a moment with the rows that were there then, and those of the end."""

    site: Site
    chain: tuple[Manifest, ...]
    moment: str
    then: str
    latest: str


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory, key: KeyPair, server: Source) -> Iterator[Lost]:
    source = Source()
    server.execute("CREATE DATABASE runbook_catalog")
    try:
        source.make_roles()
        source.run_script(SAMPLE / "pgbackup.sql", "postgres")
        source.execute("ALTER SYSTEM SET summarize_wal = on")
        source.execute("SELECT pg_reload_conf()")
        space = source.folder / "space"
        subprocess.run([*AS_NOBODY, "mkdir", "-m", "700", str(space)], check=True)
        source.execute(f"CREATE TABLESPACE elsewhere LOCATION '{space}'")
        source.execute("CREATE TABLE entry TABLESPACE elsewhere AS SELECT generate_series(1, 10) AS n")
        dsn = f"host={server.folder} port={server.port} user=postgres dbname=runbook_catalog"
        site = make_site(tmp_path_factory.mktemp("runbook"), source, dsn, key)
        with archiving(site, source):
            chain = [capture_base(site, "streamflix")]
            source.execute("INSERT INTO entry SELECT generate_series(11, 20)")
            chain.append(capture_incremental(site, "streamflix"))
            source.execute("INSERT INTO entry SELECT generate_series(21, 30)")
            moment, then = ask(source, "SELECT clock_timestamp()"), ask(source, ROWS)
            source.execute("INSERT INTO entry SELECT generate_series(31, 50)")
            source.execute("SELECT pg_switch_wal()")
            source.execute("INSERT INTO entry SELECT generate_series(51, 70)")  # in a segment that never ends
            flushed = ask(source, "SELECT pg_current_wal_flush_lsn()")
            received = f"SELECT restart_lsn >= '{flushed}' FROM pg_replication_slots WHERE NOT temporary"
            wait(lambda: ask(source, received) == "True")
        latest = ask(source, ROWS)
        source.stop()
        shutil.rmtree(space)
        yield Lost(site, tuple(chain), moment, then, latest)
    finally:
        source.remove()
        server.execute("DROP DATABASE runbook_catalog WITH (FORCE)")


@pytest.mark.parametrize("target", ["moment", "latest"])
def test_the_runbook_recovers_without_us(lost: Lost, key: KeyPair, target: str, room: Path) -> None:
    first, *blocks = printed("docs/runbook.md", "## The same without us")
    values = {
        "backups": str(lost.site.settings.paths.backups),
        "cluster": "streamflix",
        "scripts": str(SCRIPTS),
        "chain": " ".join(place(manifest) for manifest in lost.chain),
        "moment": lost.moment,
        "work": str(room / "work"),
        "port": str(free_port()),
        "key": str(key.private),
        "passphrase": str(key.passphrase_file),
    }
    assert set(re.findall(r"(?:^|\s)([a-z]+)=", first)) == set(values)
    assignments = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    end = next(block for block in blocks if "recovery_target_time = /d" in block)
    tidy = blocks[-1]
    steps = [block for block in blocks[:-1] if target == "latest" or block != end]
    script = "\n".join((f"set -eu && umask 077\nexport LC_ALL=C\n{assignments}", *steps, QUESTION, tidy))
    assert follow(script, room) == (lost.then if target == "moment" else lost.latest)
    assert sorted(path.name for path in (room / "work").iterdir() if not path.name.startswith(".s")) == ["data", "log"]


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder for the recovery, of the account that recovers; a server that is left in it is stopped."""
    folder = Path(tempfile.mkdtemp(prefix="pgroom", dir="/tmp"))
    if _isolation() == "nobody":
        shutil.chown(folder, 65534, 65534)
    (folder / "tools").mkdir(mode=0o755)
    for name in NEEDED.split():
        (folder / "tools" / name).symlink_to(shutil.which(name) or "")
    try:
        yield folder
    finally:
        data = folder / "work" / "data"
        if (data / "postmaster.pid").exists():
            stop = [str(programs() / "pg_ctl"), f"--pgdata={data}", "--mode=immediate", "stop"]
            subprocess.run([*AS_NOBODY, *stop], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(["gpgconf", f"--homedir={folder / 'work' / 'gpg'}", "--kill", "all"], check=False)
        shutil.rmtree(folder)


def printed(file: str, heading: str) -> list[str]:
    """The commands of a section."""
    text = (ROOT / file).read_text()
    start = text.index(f"\n{heading}\n")
    level = heading.partition(" ")[0]
    end = text.find(f"\n{level} ", start + 1)
    return re.findall(r"^```sh\n(.*?)^```$", text[start : end if end > 0 else None], re.DOTALL | re.MULTILINE)


def place(manifest: Manifest) -> str:
    return BackupId.parse(manifest.id).key("").rstrip("/")


def follow(script: str, room: Path) -> str:
    """Run the commands; return the last line that they print."""
    own = ["env", "-i", f"PATH={programs()}:{room / 'tools'}", f"HOME={room}", "sh"]
    done = subprocess.run([*AS_NOBODY, *own], check=False, input=script, capture_output=True, text=True, timeout=120)
    log = room / "work" / "log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    return done.stdout.splitlines()[-1]
