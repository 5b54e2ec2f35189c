"""What every keyring promises, and what real gpg says to each wrong key, phrase and file."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.keys import KeyPair, make_key, revoke, stock_sign

from pgbackup.domain.errors import PgBackupError, ProgramFailed, RefusedError, UnfitError, WrongKeyError
from pgbackup.domain.keys import Role
from pgbackup.domain.openpgp import key_ids
from pgbackup.domain.ports import Keyring
from pgbackup.domain.settings import Encryption
from pgbackup.stream import GpgKeyring, PlainKeyring, Processes

RUNNER = Processes()


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key(tmp_path_factory.mktemp("other"), "somebody.else")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key(tmp_path_factory.mktemp("signer"), "signer", encrypts=False)


def gpg(
    *keys: KeyPair, private: KeyPair | None = None, passphrase_file: Path | None = None, **more: object
) -> GpgKeyring:
    return GpgKeyring(
        Encryption.model_validate(
            {
                "recipients": tuple(key.public for key in keys),
                "private_keys": (private.private,) if private else (),
                "passphrase_file": passphrase_file or (private.passphrase_file if private else None),
                **more,
            }
        ),
        RUNNER,
    )


def signing(key: KeyPair, signer: KeyPair, *verify: Path, **more: object) -> GpgKeyring:
    """Signs with one key, and takes the signatures of others: of the same one unless told."""
    own = {"signing_key": signer.private, "signing_passphrase_file": signer.passphrase_file}
    return gpg(key, **{**own, "verify_keys": verify or (signer.public,), **more})


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


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o620])
@pytest.mark.parametrize("which", ["private", "passphrase_file"])
def test_a_secret_that_is_open_to_others_is_not_used(tmp_path: Path, key: KeyPair, which: str, mode: int) -> None:
    wrapped = gpg(key).wrap(b"phrase")
    opened = dataclasses.replace(key, **{which: Path(shutil.copy(getattr(key, which), tmp_path / "opened"))})
    for allowed in (0o400, 0o600, 0o640):
        (tmp_path / "opened").chmod(allowed)
        assert gpg(key, private=opened).unwrap(wrapped) == b"phrase"
    (tmp_path / "opened").chmod(mode)
    with pytest.raises(UnfitError, match=f"open to others(?s:.*)opened has mode {mode:04o}"):
        gpg(key, private=opened).unwrap(wrapped)


def test_a_key_that_is_not_a_recipients_opens_nothing(key: KeyPair, other_key: KeyPair) -> None:
    with pytest.raises(WrongKeyError):
        gpg(key, private=other_key).unwrap(gpg(key).wrap(b"phrase"))


def test_a_wrong_passphrase_is_no_verdict_on_the_backup(tmp_path: Path, key: KeyPair) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
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


# ------------------------------------------------------------------------------------------------------ who opens


def test_who_can_open_is_told_without_a_private_key(key: KeyPair, other_key: KeyPair, tmp_path: Path) -> None:
    large = make_key(tmp_path, "large", rsa=True)
    everybody = gpg(key, other_key, large)
    wrapped = everybody.wrap(b"phrase\n")
    assert everybody.sealed_for(wrapped) == set(everybody.recipients())
    sealed = Sink()
    RUNNER.pipe(Pieces([b"segment" * 10_000]), through=everybody.seal(), sink=sealed)
    assert (
        everybody.sealed_for(bytes(sealed)) == everybody.sealed_for(bytes(sealed[:2000])) == set(everybody.recipients())
    )


def test_a_key_that_is_not_configured_has_the_name_that_gpg_gives_it(key: KeyPair, other_key: KeyPair) -> None:
    wrapped = gpg(other_key).wrap(b"phrase\n")
    command = ["gpg", "--homedir", "/nonexistent", "--batch", "--no-keyring", "--list-only", "--list-packets"]
    listed = subprocess.run(command, input=wrapped, capture_output=True, check=False).stdout.decode()
    [name] = gpg(key).sealed_for(wrapped)
    assert f"keyid {name}" in listed
    assert gpg(key, private=other_key).sealed_for(wrapped) == set(gpg(other_key).recipients())


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_can_be_asked(data: bytes) -> None:
    assert all(len(name) == 16 for name in key_ids(data))


@pytest.mark.parametrize("data", [b"", b"phrase\n", b"\0" * 100, b"\x85\x01"])
def test_what_is_encrypted_for_nobody_is_refused(key: KeyPair, data: bytes) -> None:
    with pytest.raises(RefusedError):
        gpg(key).sealed_for(data)


# ----------------------------------------------------------------------------------------------------- signatures


def test_a_signature_is_stock_and_counts(key: KeyPair, signer: KeyPair, tmp_path: Path) -> None:
    signature = signing(key, signer).sign(b"sums\n")
    signing(key, signer).check_signature(b"sums\n", signature)
    signing(key, signer).check_signature(b"sums\n", stock_sign(signer, b"sums\n"))
    (tmp_path / "SHA256SUMS").write_bytes(b"sums\n")
    (tmp_path / "SHA256SUMS.sig").write_bytes(signature)
    keyring = tmp_path / "keys"
    dearmor = ["gpg", "--homedir", str(tmp_path), "--output", str(keyring), "--dearmor", str(signer.public)]
    subprocess.run(dearmor, check=True, capture_output=True)
    command = ["gpgv", "--keyring", str(keyring), str(tmp_path / "SHA256SUMS.sig"), str(tmp_path / "SHA256SUMS")]
    subprocess.run(command, check=True, capture_output=True)


def test_only_a_configured_key_on_exactly_this_counts(key: KeyPair, signer: KeyPair, tmp_path: Path) -> None:
    ring = signing(key, signer)
    stranger = make_key(tmp_path, "signer", encrypts=False)  # by the same name
    good = ring.sign(b"sums\n")
    forged: dict[str, tuple[bytes, bytes | None]] = {
        "none": (b"sums\n", None),
        "empty": (b"sums\n", b""),
        "rubbish": (b"sums\n", b"\x88\x75" + bytes(100)),
        "cut": (b"sums\n", good[:-1]),
        "of something else": (b"sums\n", ring.sign(b"other\n")),
        "of a part": (b"sums\nmore\n", good),
        "by a stranger": (b"sums\n", stock_sign(stranger, b"sums\n")),
        "by a recipient": (b"sums\n", stock_sign(key, b"sums\n")),
    }
    for name, (data, signature) in forged.items():
        with pytest.raises(RefusedError, match="signature") as caught:
            ring.check_signature(data, signature)
        assert caught.value.hint, name
    both = stock_sign(stranger, b"sums\n") + good
    ring.check_signature(b"sums\n", both)
    signing(key, signer, stranger.public, signer.public).check_signature(b"sums\n", good)


def test_a_signature_counts_as_long_as_its_key_was_valid_when_it_signed(key: KeyPair, tmp_path: Path) -> None:
    expired = make_key(tmp_path, "old", expires="1d", faked_time="20200101T000000", encrypts=False)
    ring = signing(key, expired)
    ring.check_signature(b"sums\n", stock_sign(expired, b"sums\n", faked_time="20200101T120000"))
    with pytest.raises(RefusedError) as caught:
        ring.check_signature(b"sums\n", stock_sign(expired, b"sums\n", extended=True))
    assert "expired when it signed" in str(caught.value.detail)


def test_a_revoked_key_counts_for_nothing(key: KeyPair, signer: KeyPair, tmp_path: Path) -> None:
    signature = stock_sign(signer, b"sums\n")
    expired = make_key(tmp_path, "old", expires="1d", faked_time="20200101T000000", encrypts=False)
    earlier = stock_sign(expired, b"sums\n", faked_time="20200101T120000")
    for one, revoked in ((signature, signer), (earlier, expired)):
        with pytest.raises(RefusedError) as caught:
            signing(key, revoked, revoke(revoked)).check_signature(b"sums\n", one)
        assert "is revoked" in str(caught.value.detail)
        with pytest.raises(RefusedError):  # whoever left the key there before it was revoked
            signing(key, revoked, revoked.public, revoke(revoked)).check_signature(b"sums\n", one)


def test_without_verify_keys_nobody_asks(key: KeyPair) -> None:
    gpg(key).check_signature(b"sums\n", None)
    assert gpg(key).sign(b"sums\n") == b""
    PlainKeyring().check_signature(b"sums\n", None)
    assert PlainKeyring().sign(b"sums\n") == b""


def test_a_key_that_cannot_sign_is_told_apart(key: KeyPair, signer: KeyPair, tmp_path: Path) -> None:
    expired = make_key(tmp_path, "old", expires="1d", faked_time="20200101T000000", encrypts=False)
    with pytest.raises(UnfitError, match="cannot sign"):
        signing(key, expired).sign(b"sums\n")
    with pytest.raises(UnfitError, match="passphrase is wrong") as caught:
        signing(key, signer, signing_passphrase_file=key.passphrase_file).sign(b"sums\n")
    assert "signing_passphrase_file" in str(caught.value.hint)
    with pytest.raises(UnfitError, match="missing") as caught:
        signing(key, signer, signing_key=tmp_path / "gone").sign(b"sums\n")
    assert "signing_key" in str(caught.value.hint)
    with pytest.raises(UnfitError, match="missing") as caught:
        signing(key, signer, tmp_path / "gone").check_signature(b"sums\n", b"")
    assert "verify_keys" in str(caught.value.hint)


def test_every_configured_key_is_listed_with_its_expiry(key: KeyPair, other_key: KeyPair, signer: KeyPair) -> None:
    ring = signing(
        key, signer, recipients=(key.public, other_key.public), escrow=(other_key.public,), private_keys=(key.private,)
    )
    assert [(one.role, one.path) for one in ring.expiries()] == [
        (Role.RECIPIENT, key.public),
        (Role.ESCROW, other_key.public),
        (Role.PRIVATE, key.private),
        (Role.SIGNING, signer.private),
        (Role.VERIFY, signer.public),
    ]
    assert [one.fingerprint for one in ring.expiries()][:2] == list(ring.recipients())
    assert all(one.expires and one.expires.year == datetime.now(UTC).year + 2 for one in ring.expiries())
    assert PlainKeyring().expiries() == ()


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
