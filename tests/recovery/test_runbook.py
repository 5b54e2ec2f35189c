"""The printed commands for a recovery without us: stock tools bring back every row up to a moment, or to the end."""

from __future__ import annotations

import os
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

from pgbackup.capture import capture_base, capture_full, capture_incremental
from pgbackup.domain.ids import BackupId
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site
from pgbackup.postgres.throwaway import _PREFIX, _isolation

ROWS = "SELECT count(*) FROM entry"
QUESTION = (
    f'psql --host="$work" --port="$port" --username=postgres --no-align --tuples-only --command="{ROWS}" postgres'
)
IN_PLACE = f"""
psql --dbname="$server dbname=postgres" --no-psqlrc --quiet --command="CREATE TABLE written AS SELECT 1"
rows=$(psql --dbname="$server dbname=postgres" --no-psqlrc --no-align --tuples-only --command="{ROWS}")
slots=$(psql --dbname="$server dbname=postgres" --no-psqlrc --no-align --tuples-only \
    --command="SELECT slot_name FROM pg_replication_slots WHERE slot_name = 'pgbackup'")
[ "$slots" = pgbackup ]
pg_ctl --pgdata="$production" --mode=fast --wait stop >/dev/null
echo "$rows"
"""
# The commands run as an account that is not root, and find nothing but what they are said to need.
AS_NOBODY = _PREFIX["user" if _isolation() == "namespace" else _isolation()]
NEEDED = f"{TOOLS} chmod cp gpg-agent sed sleep tail tar touch"


@dataclass(frozen=True)
class Lost:
    """A server that is gone: its backups, a moment with the rows that were there then, and those of the end."""

    source: Source
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
        source.execute(f"ALTER SYSTEM SET unix_socket_directories = '{source.folder}'")
        source.stop()
        shutil.rmtree(space)
        yield Lost(source, site, tuple(chain), moment, then, latest)
    finally:
        halt(source.data)
        source.remove()
        server.execute("DROP DATABASE runbook_catalog WITH (FORCE)")


@pytest.mark.parametrize("target", ["moment", "latest"])
def test_the_runbook_recovers_without_us(lost: Lost, key: KeyPair, target: str, room: Path) -> None:
    """To the latest it is put in production's place as well, and may be written to there."""
    first, *blocks, tidy, switch = printed("docs/runbook.md", "### The same without us")
    steps = assigned(
        first,
        backups=str(lost.site.settings.paths.backups),
        cluster="streamflix",
        scripts=str(SCRIPTS),
        chain=" ".join(place(manifest) for manifest in lost.chain),
        moment=lost.moment,
        work=str(room / "work"),
        port=str(free_port()),
        key=str(key.private),
        passphrase=str(key.passphrase_file),
    )
    end = next(block for block in blocks if "recovery_target_time = /d" in block)
    steps += [block for block in blocks if target == "latest" or block != end]
    if target == "moment":
        assert follow("\n".join((*steps, QUESTION, tidy)), room) == lost.then
        names = sorted(path.name for path in (room / "work").iterdir() if not path.name.startswith(".s"))
        assert names == ["data", "log"]
        return
    old = {path.name for path in lost.source.data.iterdir()}
    place_of = {"production": str(lost.source.data), "slot": "pgbackup", "server": lost.source.conninfo}
    steps += [tidy, *assigned(switch, **place_of), IN_PLACE]
    assert follow("\n".join(steps), room) == lost.latest
    assert {path.name for path in lost.source.data.with_name("data.before").iterdir()} == old


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, key: KeyPair, server: Source) -> Iterator[Shop]:
    source = Source()
    server.execute("CREATE DATABASE shop_catalog")
    try:
        source.make_roles()
        source.execute("CREATE DATABASE shop")
        source.execute('CREATE TABLE "Item" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)', "shop")
        source.execute("INSERT INTO \"Item\" (name) SELECT 'item ' || i FROM generate_series(1, 500) AS i", "shop")
        dsn = f"host={server.folder} port={server.port} user=postgres dbname=shop_catalog"
        site = make_site(tmp_path_factory.mktemp("shop"), source, dsn, key)
        full = capture_full(site, "streamflix")
        yield Shop(source, str(site.settings.paths.backups / place(full)))
    finally:
        source.remove()
        server.execute("DROP DATABASE shop_catalog WITH (FORCE)")


@pytest.mark.parametrize("damage", ["gone", "rows"])
def test_the_runbook_brings_a_table_back_without_us(shop: Shop, key: KeyPair, damage: str, room: Path) -> None:
    fetch, gone, *rows = printed("docs/runbook.md", "### A table without us")
    before = shop.items()
    statement = {"gone": 'DROP TABLE "Item"', "rows": 'DELETE FROM "Item" WHERE id % 3 = 0'}[damage]
    shop.source.execute(statement, "shop")
    steps = assigned(fetch, **shop.values(key), table="public.Item", quoted='public."Item"', work=str(room / "work"))
    steps += [gone] if damage == "gone" else rows
    try:
        shop.follow("\n".join(steps))
        assert shop.items() == before
    finally:
        shop.source.execute("DROP DATABASE table_restored")


def test_the_runbook_brings_a_database_back_without_us(shop: Shop, key: KeyPair) -> None:
    restore, swap = printed("docs/runbook.md", "### A database without us")
    before = shop.items()
    shop.source.execute('DELETE FROM "Item"', "shop")
    with shop.source.connect("shop"):  # somebody is in it
        shop.follow("\n".join([*assigned(restore, **shop.values(key)), swap]))
    assert shop.items() == before
    assert shop.items("shop_before") == ()


@dataclass(frozen=True)
class Shop:
    """A server that is there, and the folder of its full backup."""

    source: Source
    backup: str

    def values(self, key: KeyPair) -> dict[str, str]:
        """What the first block of a section wants to know."""
        return {
            "scripts": str(SCRIPTS),
            "backup": self.backup,
            "server": self.source.conninfo,
            "database": "shop",
            "key": str(key.private),
            "passphrase": str(key.passphrase_file),
        }

    def items(self, database: str = "shop") -> tuple[tuple[object, ...], ...]:
        """Every row."""
        with self.source.connect(database) as connection:
            return tuple(connection.execute('SELECT * FROM "Item" ORDER BY id').fetchall())

    def follow(self, script: str) -> None:
        """Run the commands."""
        env = {**os.environ, "PATH": f"{programs()}:{os.environ['PATH']}"}
        done = subprocess.run(["sh"], input=script, env=env, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


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
        halt(folder / "work" / "data")
        subprocess.run(["gpgconf", f"--homedir={folder / 'work' / 'gpg'}", "--kill", "all"], check=False)
        shutil.rmtree(folder)


def halt(data: Path) -> None:
    """End a server that was left running."""
    if (data / "postmaster.pid").exists():
        stop = [str(programs() / "pg_ctl"), f"--pgdata={data}", "--mode=immediate", "stop"]
        subprocess.run([*AS_NOBODY, *stop], check=False, stdout=subprocess.DEVNULL)


def assigned(block: str, **values: str) -> list[str]:
    """A block with the test's values instead of the printed ones, of which none may be left."""
    printed_names = re.findall(r"(?:^|\s)([a-z]+)=(?=\S)", "\n".join(re.findall(r"^[a-z].*$", block, re.MULTILINE)))
    lines = block.splitlines(keepends=True)
    own = [line for line in lines if not re.match(r"[a-z]+=\S", line) and not line.startswith("export ")]
    assert set(values) <= set(printed_names), set(values) - set(printed_names)
    said = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    return ["set -eu && umask 077\nexport LC_ALL=C\n", said, "".join(own)]


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
