"""Stock gpg without a keyring of the user's: commands, homes that last for one call, private keys unlocked there."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.errors import PgBackupError, ProgramFailed, UnavailableError, UnfitError
from pgbackup.domain.model import SECRET_FD, Command
from pgbackup.domain.ports import Runner
from pgbackup.scratch import private_folder
from pgbackup.stream.secret_files import check_secret

_QUIET = (
    "--batch",
    "--yes",
    "--no-tty",
    "--quiet",
    "--no-autostart",
    "--disable-dirmngr",
    "--no-auto-key-locate",
)
LOOPBACK = ("--pinentry-mode", "loopback", "--passphrase-fd", SECRET_FD)
# Otherwise the agent measures the machine for seconds, to protect a copy of the key that lives for one.
_STRETCH = ("--s2k-count", "1048576")
_AGENT_TIMEOUT = 30.0


def gpg(home: str, *options: str, secret: bytes | None = None) -> Command:
    """Return a call of gpg; ``secret`` is the passphrase that ``LOOPBACK`` reads."""
    return Command(("gpg", "--homedir", home, *_QUIET, *options), secret=secret)


@contextlib.contextmanager
def new_home() -> Iterator[str]:
    """Make a private gpg home."""
    with private_folder() as folder:
        yield str(folder)


@dataclass(frozen=True)
class SecretKeys:
    """Secret key files, and the file of their passphrase; the settings are named in errors."""

    runner: Runner
    files: tuple[Path, ...]
    passphrase_file: Path | None
    setting: str
    passphrase_setting: str

    @contextlib.contextmanager
    def unlocked(self) -> Iterator[tuple[str, bytes]]:
        """Put the keys into a home of their own; yield it and their passphrase. Raises UnfitError."""
        for path in self.files:
            check_secret(path, self.setting)
        secret = self._passphrase()
        with new_home() as home, self._agent(home):
            self._import(home, secret)
            yield home, secret

    def check_passphrase(self, home: str, secret: bytes) -> None:
        """Raise UnfitError when the passphrase opens our own keys not: gpg then only says that it has none."""
        _, complaints = self.runner.run(
            gpg(home, *LOOPBACK, "--export-secret-keys", secret=secret), ok=frozenset({0, 2})
        )
        if "passphrase" in complaints:
            raise UnfitError(
                "the private key's passphrase is wrong", detail=complaints, hint=f"see {self.passphrase_setting}"
            )

    def _passphrase(self) -> bytes:
        path = self.passphrase_file
        if path is None:
            return b"\n"
        check_secret(path, self.passphrase_setting)
        return path.read_bytes().rstrip(b"\n") + b"\n"

    def _import(self, home: str, secret: bytes) -> None:
        for path in self.files:
            try:
                self.runner.run(gpg(home, *LOOPBACK, "--import", str(path), secret=secret))
            except ProgramFailed as error:
                raise UnfitError(
                    f"{path} is not a private key file",
                    detail=error.detail,
                    hint="gpg --armor --export-secret-keys WHO > FILE",
                ) from None

    @contextlib.contextmanager
    def _agent(self, home: str) -> Iterator[None]:
        """Run the agent that private keys need. It ends soon after the program it was given, and that one ends with
        this process, however that ends: an agent that gpg starts by itself would live on, with the keys.
        """
        options = ("--quiet", *_STRETCH, "--daemon", "--no-detach", "sleep", "infinity")
        holder = self.runner.spawn(Command(("gpg-agent", "--homedir", home, *options)))
        try:
            deadline = time.monotonic() + _AGENT_TIMEOUT
            while not self._agent_answers(home):
                if holder.poll() is not None or time.monotonic() > deadline:
                    raise UnavailableError("gpg-agent does not start", detail=holder.stderr())
                time.sleep(0.01)
            yield
        finally:
            with contextlib.suppress(PgBackupError):
                self.runner.run(Command(("gpgconf", "--homedir", home, "--kill", "all")))
            holder.stop(signal.SIGTERM, _AGENT_TIMEOUT)

    def _agent_answers(self, home: str) -> bool:
        ask = Command(("gpg-connect-agent", "--homedir", home, "--no-autostart", "--quiet", "GETINFO pid", "/bye"))
        output, _ = self.runner.run(ask, ok=frozenset(range(3)))
        return output.rstrip().endswith(b"OK")
