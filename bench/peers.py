"""The peers: how a user who knows them would set them up, and nothing that they do without being asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psycopg

from bench.stage import ROOT, Stage
from pgbackup.domain.wal import Segment

BARMAN = ROOT / ".cache" / "barman" / "bin" / "barman"
HOW = {
    "pgBackRest": "apt-get install --no-install-recommends pgbackrest",
    "Barman": f"python3 -m venv {BARMAN.parents[1]}; {BARMAN.with_name('pip')} install barman zstandard",
    "rsync (for Barman)": "apt-get install rsync",
}


class Peer(Protocol):
    """Another tool on the same server."""

    name: str
    version: str

    def full(self) -> str:
        """Take an encrypted full backup; return its name."""
        ...

    def incremental(self) -> str:
        """Take an encrypted incremental backup; return its name."""
        ...

    def stored(self, backup: str) -> int:
        """Return what a backup takes in the repository, in bytes."""
        ...

    def wait_for(self, segment: str) -> None:
        """Wait until a segment is archived."""
        ...

    def restore(self, backup: str, point: str, folder: Path) -> None:
        """Make a data directory that recovers to a named restore point when it is started."""
        ...

    def push(self, segments: list[Path]) -> float:
        """Archive finished segments, encrypted, into an empty archive; return the seconds."""
        ...


def missing() -> list[str]:
    """Return how to get the peers that this machine has not got."""
    programs = {"pgBackRest": "pgbackrest", "Barman": str(BARMAN), "rsync (for Barman)": "rsync"}
    return [how for name, how in HOW.items() if shutil.which(programs[name]) is None]


class PgBackRest:
    """pgBackRest, with its own encryption, zstd, asynchronous archiving and two processes."""

    name = "pgBackRest"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._keywords = stage.superuser.keywords
        self._folder = stage.folder / "pgbackrest"
        self._config = self._folder / "pgbackrest.conf"
        self._write(self._config, self._folder / "repository")
        self._run("stanza-create")
        self._archive_with(self._config)
        self.version = subprocess.run(["pgbackrest", "version"], check=True, capture_output=True, text=True).stdout[11:]

    def full(self) -> str:
        self._run("backup", "--type=full")
        return self._newest()["label"]

    def incremental(self) -> str:
        self._run("backup", "--type=incr")
        return self._newest()["label"]

    def stored(self, backup: str) -> int:
        return size_of(self._folder / "repository" / "backup" / "bench" / backup)

    def wait_for(self, segment: str) -> None:
        with psycopg.connect(**self._keywords, autocommit=True) as connection:
            while not connection.execute("SELECT last_archived_wal >= %s FROM pg_stat_archiver", (segment,)).fetchall()[
                0
            ][0]:
                time.sleep(0.1)

    def restore(self, backup: str, point: str, folder: Path) -> None:
        options = (f"--pg1-path={folder}", f"--set={backup}", f"--target={point}")
        self._run("restore", "--type=name", "--target-action=promote", *options)

    def push(self, segments: list[Path]) -> float:
        """Have the server's archiver push once more what it has pushed, into a new repository."""
        other = self._folder / "rate.conf"
        for left in ("rate", "rate-work"):  # with the spool, which says what is pushed already
            shutil.rmtree(self._folder / left, ignore_errors=True)
        self._archive_with(None)
        self._write(other, self._folder / "rate")
        subprocess.run(self._command(other, "stanza-create"), check=True)
        status = self._stage.server.data / "pg_wal" / "archive_status"
        for segment in segments:
            (status / f"{segment.name}.done").rename(status / f"{segment.name}.ready")
        self._archive_with(other)
        with psycopg.connect(**self._keywords, autocommit=True) as connection:
            start = time.monotonic()
            connection.execute("SELECT pg_logical_emit_message(true, 'bench', 'wakes the archiver'), pg_switch_wal()")
            while any((status / f"{segment.name}.ready").exists() for segment in segments):
                time.sleep(0.02)
            seconds = time.monotonic() - start
        self._archive_with(self._config)
        return seconds

    def _newest(self) -> dict[str, str]:
        text = subprocess.run(
            self._command(self._config, "info", "--output=json"), check=True, capture_output=True
        ).stdout
        newest: dict[str, str] = json.loads(text)[0]["backup"][-1]
        return newest

    def _run(self, *arguments: str) -> None:
        subprocess.run(self._command(self._config, *arguments), check=True)

    def _archive_with(self, config: Path | None) -> None:
        command = " ".join(self._command(config, "archive-push", "%p")) if config else "false"
        with psycopg.connect(**self._keywords, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET archive_command = '{command}'")
            connection.execute("SELECT pg_reload_conf()")

    @staticmethod
    def _command(config: Path, *arguments: str) -> list[str]:
        return ["pgbackrest", f"--config={config}", "--stanza=bench", *arguments]

    def _write(self, config: Path, repository: Path) -> None:
        folder = repository.with_name(f"{repository.name}-work")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.write_text(
            f"[global]\nrepo1-path={repository}\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=correct-horse\n"
            "repo1-bundle=y\nrepo1-retention-full=9\ncompress-type=zst\ncompress-level=1\nprocess-max=2\n"
            "start-fast=y\narchive-async=y\narchive-get-queue-max=2GiB\nlog-level-console=error\nlog-level-file=off\n"
            f"lock-path={folder}/lock\nspool-path={folder}/spool\nlog-path={folder}\n"
            f"[bench]\npg1-path={self._stage.server.data}\npg1-socket-path={self._keywords['host']}\n"
            f"pg1-port={self._keywords['port']}\npg1-user=postgres\npg1-database=postgres\n"
        )
        config.chmod(0o600)


class Barman:
    """Barman, method postgres: streamed backups compressed by the server, streamed WAL; GPG; block incrementals."""

    name = "Barman"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._folder = stage.folder / "barman"
        self._home = self._folder / "gnupg"
        self._home.mkdir(mode=0o700, parents=True)
        (self._folder / "home").mkdir()
        self._env = {**os.environ, "GNUPGHOME": str(self._home), "LC_ALL": "C.UTF-8"}
        key = self._import_key()
        self._config = self._folder / "barman.conf"
        self._write(key)
        self._run("receive-wal", "--create-slot", "bench")
        self._streamer = subprocess.Popen(
            self._command("receive-wal", "bench"), env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        version = subprocess.run([str(BARMAN), "--version"], check=True, capture_output=True, text=True).stdout
        self.version = version.split()[0]

    def close(self) -> None:
        """End the streaming."""
        self._streamer.terminate()
        self._streamer.wait()
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "all"], check=True)

    def full(self) -> str:
        self._run("backup", "bench")
        return self._newest()

    def incremental(self) -> str:
        self._run("backup", "bench", "--incremental", "last")
        return self._newest()

    def stored(self, backup: str) -> int:
        return size_of(self._folder / "home" / "bench" / "base" / backup)

    def wait_for(self, segment: str) -> None:
        wals = self._folder / "home" / "bench" / "wals"
        while not any(wals.glob(f"*/{segment}*")):
            self._run("archive-wal", "bench")

    def restore(self, backup: str, point: str, folder: Path) -> None:
        self._run("restore", "bench", backup, str(folder), "--target-name", point, "--target-action", "promote")
        # Its tar gives files to whom the server saw as their owner, which was in a user namespace.
        subprocess.run(["chown", "--recursive", str(os.geteuid()), str(folder)], check=True)

    def push(self, segments: list[Path]) -> float:
        """Archive what was streamed; `barman cron` runs the same command."""
        home = self._folder / "home" / "rate"
        shutil.rmtree(home, ignore_errors=True)
        (home / "streaming").mkdir(parents=True)
        for segment in segments:
            shutil.copy(segment, home / "streaming")
        behind = Segment.parse(segments[-1].name, segments[-1].stat().st_size).next()
        (home / "streaming" / f"{behind.name}.partial").touch()  # without it the newest one stays
        start = time.monotonic()
        self._run("archive-wal", "rate")
        seconds = time.monotonic() - start
        if any(not list((home / "wals").glob(f"*/{segment.name}")) for segment in segments):
            raise SystemExit("Barman left some segments")
        return seconds

    def _newest(self) -> str:
        return max(path.name for path in (self._folder / "home" / "bench" / "base").iterdir())

    def _import_key(self) -> str:
        gpg = ["gpg", "--homedir", str(self._home), "--batch", "--quiet"]
        subprocess.run([*gpg, "--import", str(self._stage.folder / "keys" / "private.asc")], check=True)
        listing = subprocess.run([*gpg, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True)
        key = next(line.split(":")[9] for line in listing.stdout.splitlines() if line.startswith("fpr:"))
        subprocess.run([*gpg, "--import-ownertrust"], input=f"{key}:6:\n", text=True, check=True)
        return key

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(self._command(*arguments), env=self._env, capture_output=True, text=True, check=False)
        # 1 after a restore says that WAL was missing for an end that nobody asked for.
        if done.returncode != 0:
            raise SystemExit(f"barman {' '.join(arguments)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _command(self, *arguments: str) -> list[str]:
        return [str(BARMAN), "--config", str(self._config), "--quiet", *arguments]

    def _write(self, key: str) -> None:
        keywords = self._stage.superuser.keywords
        conninfo = f"host={keywords['host']} port={keywords['port']} user=postgres dbname=postgres"
        common = (
            f"conninfo={conninfo}\nstreaming_conninfo={conninfo}\n"
            f"path_prefix={self._stage.server.programs.folder}\nbackup_method=postgres\nstreaming_archiver=on\nimmediate_checkpoint=on\n"
            "backup_compression=zstd\nbackup_compression_level=1\nbackup_compression_workers=2\n"
            "backup_compression_location=server\nbackup_compression_format=tar\ncompression=zstd\n"
            f"encryption=gpg\nencryption_key_id={key}\nencryption_passphrase_command=printf none\n"
            f"staging_path={self._folder}\nstaging_location=local\n"
        )
        servers = "".join(
            f"[{name}]\ndescription={name}\nslot_name=barman_{name}\n{common}" for name in ("bench", "rate")
        )
        self._config.write_text(
            f"[barman]\nbarman_home={self._folder}/home\nbarman_user=root\nlog_level=WARNING\n"
            f"log_file={self._folder}/barman.log\n{servers}"
        )


@contextmanager
def opened(stage: Stage) -> Iterator[Peer]:
    """Set up the peer that fits the source's version."""
    if stage.server.major < 17:
        yield PgBackRest(stage)
        return
    barman = Barman(stage)
    try:
        yield barman
    finally:
        barman.close()


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
