"""A server that archives with archive_wal.sh, and what it takes to recover from that archive; stock tools only."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgbackup.postgres.throwaway import _isolation
from tests.support.keys import KeyPair
from tests.support.source import ROOT, Source, free_port

SCRIPTS = ROOT / "include" / "scripts"
TOOLS = "awk cat date gpg gpgconf ln ls mkdir mktemp mv od rm sh sha256sum stat sync tr zstd"
CLUSTER = "streamflix"


@dataclass(frozen=True)
class ScriptArchive:
    """A repository of one server's WAL, and the calls of both scripts upon it."""

    source: Source
    system: str
    folder: Path
    repository: Path
    gpg_home: Path
    key: KeyPair

    @property
    def timelines(self) -> Path:
        return self.repository / "wal" / CLUSTER / self.system

    def names(self) -> list[str]:
        """The sealed segments, oldest first."""
        stems = sorted(path.name.partition("-")[0] for path in self.timelines.glob("*/*.json"))
        return [stem for stem in stems if len(stem) == 24]

    def files(self, name: str) -> list[Path]:
        """What is stored of a file: bytes, then description."""
        return sorted(self.timelines.glob(f"*/{name}-*"), key=lambda path: path.name.endswith(".json"))

    def original(self, name: str) -> Path:
        """The server's own segment."""
        return self.source.data / "pg_wal" / name

    def archiver(self, *options: str) -> list[str]:
        return [
            str(SCRIPTS / "archive_wal.sh"),
            f"--backups={self.repository}",
            f"--recipient={self.key.public}",
            *options,
        ]

    def restorer(self, *options: str) -> list[str]:
        script = [str(SCRIPTS / "restore_wal.sh"), f"--backups={self.repository}", f"--gpg-home={self.gpg_home}"]
        return [*script, f"--passphrase-file={self.key.passphrase_file}", *options]

    def command(self, argv: list[str], *placeholders: str) -> str:
        """An archive_command or restore_command: without Python on its PATH, on a full disk while ``full`` exists."""
        full = shlex.quote(str(self.folder / "full"))
        environment = f"PATH={shlex.quote(str(self.folder / 'tools'))}"
        return f"[ ! -e {full} ] || ulimit -f 1; {environment} {shlex.join(argv)} {' '.join(placeholders)}"

    def archive(self, path: Path, *options: str, tools: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self._call([*self.archiver(f"--system-identifier={self.system}", *options), str(path)], tools)

    def restore(
        self, name: str, target: Path, *options: str, tools: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self._call([*self.restorer(f"--system-identifier={self.system}", *options), name, str(target)], tools)

    def _call(self, argv: list[str], tools: Path | None) -> subprocess.CompletedProcess[str]:
        home = self.folder / "home"
        environment = {"PATH": str(tools or self.folder / "tools"), "HOME": str(home)}
        done = subprocess.run(
            argv, check=False, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60
        )
        assert not list(home.iterdir())
        return done


class Recovered(Source):
    """A base backup without WAL, to be recovered from an archive: everything that it replays, the script brings."""

    def __init__(self, archive: ScriptArchive, base: Path) -> None:
        self.major = archive.source.major
        self.bin = archive.source.bin
        self.folder = Path(tempfile.mkdtemp(prefix="pgback", dir="/tmp"))
        self.data = self.folder / "data"
        self.port = free_port()
        self._process = None
        shutil.copytree(base, self.data)
        (self.data / "recovery.signal").touch()
        give(archive.source, self.folder)
        settings = {"port": str(self.port), "hot_standby": "off", "archive_mode": "off", "wal_keep_size": "1GB"}
        configure(self, restore_command=archive.command(archive.restorer(), "%f", "%p"), **settings)

    def recover(self) -> bool:
        """Tell whether it went into service; False when it stopped instead."""
        try:
            self.start()
        except AssertionError:
            assert self._process is not None
            if self._process.poll() is None:
                raise
            self._process = None
            return False
        return True


def give(source: Source, *paths: Path) -> None:
    """Let the server's account have files of ours."""
    if _isolation() == "nobody":
        for path in paths:
            for one in (path, *path.rglob("*")):
                os.chown(one, 65534, 65534, follow_symlinks=False)


def configure(source: Source, **settings: str) -> None:
    with (source.data / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items())


def ask(source: Source, query: str) -> str:
    with source.connect("postgres") as connection:
        row: tuple[object, ...] | None = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finish_segment(source: Source) -> str:
    """Close the present segment, which is not empty; return its name."""
    name = ask(source, "SELECT pg_walfile_name(pg_logical_emit_message(true, 'test', 'end of a segment'))")
    source.execute("SELECT pg_switch_wal()")
    return name


def archived(source: Source) -> None:
    """Archive everything up to now."""
    done = source.data / "pg_wal" / "archive_status" / f"{finish_segment(source)}.done"
    wait(done.exists)


@contextmanager
def script_archive(key: KeyPair) -> Iterator[ScriptArchive]:
    """Start a server that archives."""
    source = Source()
    gpg_home = Path(tempfile.mkdtemp(prefix="g", dir="/tmp"))
    folder = source.folder / "wal's scripts"  # scripts have to quote
    try:
        for name in ("tools", "repository", "home", "keys"):
            (folder / name).mkdir(parents=True, mode=0o700)
        make_tools(folder / "tools")
        keys = KeyPair(*(folder / "keys" / path.name for path in (key.public, key.private, key.passphrase_file)))
        for path in (key.public, key.private, key.passphrase_file):
            shutil.copy(path, folder / "keys")
        # As include/scripts/README.md tells.
        (gpg_home / "gpg-agent.conf").write_text("s2k-count 65536\n")
        unlock = ["--batch", "--quiet", "--pinentry-mode=loopback", f"--passphrase-file={key.passphrase_file}"]
        subprocess.run(["gpg", f"--homedir={gpg_home}", *unlock, "--import", str(key.private)], check=True)
        give(source, folder, gpg_home)
        system = ask(source, "SELECT system_identifier FROM pg_control_system()")
        archive = ScriptArchive(source, system, folder, folder / "repository", gpg_home, keys)
        source.stop()
        command = archive.command(archive.archiver(), "%p")
        configure(source, archive_mode="on", archive_command=command, wal_keep_size="1GB")
        source.start()
        yield archive
    finally:
        source.remove()
        subprocess.run(["gpgconf", f"--homedir={gpg_home}", "--kill", "all"], check=False)
        shutil.rmtree(gpg_home)


def make_tools(folder: Path) -> None:
    """Make a folder of the stock tools, and nothing else, least of all Python."""
    for name in TOOLS.split():
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
