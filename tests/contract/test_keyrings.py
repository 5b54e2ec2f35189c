"""What every keyring promises, and what real gpg says to each wrong key, phrase and file."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.keys import KeyPair, make_key

from pgbackup.domain.errors import PgBackupError, ProgramFailed, RefusedError, UnfitError, WrongKeyError
from pgbackup.domain.ports import Keyring
from pgbackup.domain.settings import Encryption
from pgbackup.stream import GpgKeyring, PlainKeyring, Processes

RUNNER = Processes()


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key(tmp_path_factory.mktemp("other"), "somebody.else")


def gpg(*keys: KeyPair, private: KeyPair | None = None, passphrase_file: Path | None = None) -> GpgKeyring:
    return GpgKeyring(
        Encryption(
            recipients=tuple(key.public for key in keys),
            private_keys=(private.private,) if private else (),
            passphrase_file=passphrase_file or (private.passphrase_file if private else None),
        ),
        RUNNER,
    )


@pytest.fixture(params=["gpg", "plain"])
def keyring(request: pytest.FixtureRequest, key: KeyPair) -> Keyring:
    return gpg(key, private=key) if request.param == "gpg" else PlainKeyring()


class Pieces:
    """Data that comes in pieces of any size."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def read(self, size: int = -1, /) -> bytes:
        del size
        return self._pieces.pop(0) if self._pieces else b""


class Sink(bytearray):
    def write(self, data: bytes | memoryview) -> None:
        self.extend(data)


def through(filters: Callable[[bytes], tuple[object, ...]], passphrase: bytes, pieces: list[bytes]) -> bytes:
    sink = Sink()
    RUNNER.pipe(Pieces(pieces), through=filters(passphrase), sink=sink)  # type: ignore[arg-type]
    return bytes(sink)


# ---------------------------------------------------------------------------------------------------------- both


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_decoding_gives_back_what_was_encoded(keyring: Keyring, pieces: list[bytes]) -> None:
    passphrase = keyring.new_passphrase()
    stored = through(keyring.encrypt, passphrase, pieces)
    assert through(keyring.decrypt, passphrase, [stored]) == b"".join(pieces)


def test_a_large_stream_comes_back(keyring: Keyring) -> None:
    data = bytes(range(256)) * 30_000
    passphrase = keyring.new_passphrase()
    assert through(keyring.decrypt, passphrase, [through(keyring.encrypt, passphrase, [data])]) == data


def test_a_wrapped_passphrase_comes_back(keyring: Keyring) -> None:
    passphrase = keyring.new_passphrase()
    assert keyring.unwrap(keyring.wrap(passphrase)) == passphrase


# ----------------------------------------------------------------------------------------------------------- gpg


def test_every_backup_has_a_passphrase_of_its_own(key: KeyPair) -> None:
    phrases = {gpg(key).new_passphrase() for _ in range(100)}
    assert len(phrases) == 100
    assert all(phrase.endswith(b"\n") and phrase.count(b"\n") == 1 and len(phrase) > 40 for phrase in phrases)


def test_each_recipient_opens_it_alone(key: KeyPair, other_key: KeyPair) -> None:
    both = gpg(key, other_key)
    assert len(set(both.recipients())) == 2
    wrapped = both.wrap(b"phrase\n")
    assert gpg(key, private=key).unwrap(wrapped) == b"phrase\n"
    assert gpg(key, private=other_key).unwrap(wrapped) == b"phrase\n"


def test_recipients_and_identities_are_the_same_names(key: KeyPair) -> None:
    ring = gpg(key, private=key)
    assert ring.recipients() == ring.identities()
    assert len(ring.recipients()[0]) == 40


def test_stock_gpg_opens_it_in_two_steps(key: KeyPair, tmp_path: Path) -> None:
    ring = gpg(key)
    passphrase = ring.new_passphrase()
    (tmp_path / "key.1.gpg").write_bytes(ring.wrap(passphrase))
    (tmp_path / "data.gpg").write_bytes(through(ring.encrypt, passphrase, [b"rows"]))
    home = tmp_path / "h"
    home.mkdir(mode=0o700)
    call = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
    own = [*call, "--passphrase-file", str(key.passphrase_file)]
    try:
        subprocess.run([*own, "--import", str(key.private)], check=True)
        phrase = subprocess.run([*own, "-d", str(tmp_path / "key.1.gpg")], check=True, capture_output=True).stdout
        (tmp_path / "pass").write_bytes(phrase)
        done = [*call, "--passphrase-file", str(tmp_path / "pass"), "-d", str(tmp_path / "data.gpg")]
        assert subprocess.run(done, check=True, capture_output=True).stdout == b"rows"
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def test_an_expired_key_is_refused_before_anything_is_dumped(tmp_path: Path) -> None:
    expired = make_key(tmp_path, "old", expires="1d", faked_time="20200101T000000")
    with pytest.raises(UnfitError, match=r"expired on 2020-01-02") as caught:
        gpg(expired).recipients()
    assert caught.value.hint
    with pytest.raises(UnfitError, match="expired"):
        gpg(expired).wrap(b"phrase")


def test_a_key_that_expires_tomorrow_is_good_today(key: KeyPair) -> None:
    expires = gpg(key).public_keys()[0].expires
    assert expires is not None
    ring = gpg(key)
    ring._clock = lambda: expires - 1
    assert ring.recipients()
    ring._clock = lambda: expires
    with pytest.raises(UnfitError, match="expired"):
        ring.recipients()


def test_a_missing_key_file_is_an_unknown_recipient(tmp_path: Path, key: KeyPair) -> None:
    missing = dataclasses.replace(key, public=tmp_path / "gone.asc")
    with pytest.raises(UnfitError, match="unknown recipient") as caught:
        gpg(key, missing).recipients()
    assert "gone.asc" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxxxx\n"])
def test_a_file_that_is_no_key_is_named(tmp_path: Path, key: KeyPair, content: bytes) -> None:
    garbage = dataclasses.replace(key, public=tmp_path / "garbage.asc", private=tmp_path / "garbage.asc")
    garbage.public.write_bytes(content)
    with pytest.raises(UnfitError, match=r"garbage\.asc"):
        gpg(garbage).recipients()
    with pytest.raises(UnfitError, match=r"garbage\.asc"):
        gpg(key, private=garbage).unwrap(gpg(key).wrap(b"phrase"))


def test_a_key_that_only_signs_cannot_be_a_recipient(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="cannot encrypt"):
        gpg(make_key(tmp_path, "signer", encrypts=False)).recipients()


def test_without_a_private_key_it_is_said_what_to_configure(key: KeyPair) -> None:
    with pytest.raises(UnfitError, match="no private key") as caught:
        gpg(key).unwrap(gpg(key).wrap(b"phrase"))
    assert "private_keys" in str(caught.value.hint)


def test_a_missing_private_key_file_is_named(tmp_path: Path, key: KeyPair) -> None:
    missing = dataclasses.replace(key, private=tmp_path / "gone.asc")
    with pytest.raises(UnfitError, match="missing"):
        gpg(key, private=missing).unwrap(gpg(key).wrap(b"phrase"))


def test_a_key_that_is_not_a_recipients_opens_nothing(key: KeyPair, other_key: KeyPair) -> None:
    with pytest.raises(WrongKeyError):
        gpg(key, private=other_key).unwrap(gpg(key).wrap(b"phrase"))


def test_a_wrong_passphrase_is_no_verdict_on_the_backup(tmp_path: Path, key: KeyPair) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not it\n")
    with pytest.raises(UnfitError, match="passphrase is wrong"):
        gpg(key, private=key, passphrase_file=wrong).unwrap(gpg(key).wrap(b"phrase"))
    with pytest.raises(UnfitError, match="passphrase"):
        gpg(key, private=key, passphrase_file=tmp_path / "gone").unwrap(gpg(key).wrap(b"phrase"))


def test_a_damaged_wrapped_passphrase_is_refused(key: KeyPair) -> None:
    ring = gpg(key, private=key)
    wrapped = ring.wrap(b"phrase")
    for cut in (0, 10, len(wrapped) // 2, len(wrapped) - 1):
        with pytest.raises(RefusedError):
            ring.unwrap(wrapped[:cut])
    for offset in range(0, len(wrapped), 23):
        damaged = bytearray(wrapped)
        damaged[offset] ^= 0x20
        with pytest.raises((RefusedError, WrongKeyError)):  # the latter where the flip hit the name of the key
            ring.unwrap(bytes(damaged))


def test_a_damaged_stream_makes_gpg_fail(key: KeyPair) -> None:
    ring = gpg(key)
    passphrase = ring.new_passphrase()
    stored = through(ring.encrypt, passphrase, [b"rows" * 10_000])
    for cut in (0, 1, len(stored) // 2, len(stored) - 1):
        with pytest.raises(ProgramFailed):
            through(ring.decrypt, passphrase, [stored[:cut]])
    for offset in range(0, len(stored), 3001):
        damaged = bytearray(stored)
        damaged[offset] ^= 1
        with pytest.raises(ProgramFailed):
            through(ring.decrypt, passphrase, [bytes(damaged)])
    with pytest.raises(ProgramFailed):
        through(ring.decrypt, ring.new_passphrase(), [stored])


# -------------------------------------------------------------------------------------------------- what is left


def agents() -> set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "gpg-agent":
                found.add(process.name)
        except OSError:
            continue
    return found


@pytest.fixture
def homes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = Path("/tmp") / tmp_path_factory.mktemp("h").name  # noqa: S108 - an agent's socket needs a short path
    place.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setattr("pgbackup.scratch._PLACE", place)
    yield place
    place.rmdir()  # fails when something is left


def test_neither_an_agent_nor_a_home_is_left(homes: Path, key: KeyPair, other_key: KeyPair) -> None:
    wrapped = gpg(key).wrap(b"phrase")
    assert gpg(key, private=key).unwrap(wrapped) == b"phrase"
    with pytest.raises(PgBackupError):
        gpg(key, private=other_key).unwrap(wrapped)
    left = {pid for pid in agents() if str(homes).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()}
    assert left == set()
    assert list(homes.iterdir()) == []
