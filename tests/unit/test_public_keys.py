"""What gpg lists of a key file, read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbackup.domain.errors import UnfitError
from pgbackup.stream.gpg_keys import parse_public_key

FILE = Path("k.asc")
PRIMARY = "pub:-:255:22:AAAA:1700000000:{expires}::-:::{uses}::::::23::0:"
NAME = "fpr:::::::::" + "F" * 40 + ":"
SUBKEY = "sub:-:255:18:BBBB:1700000000:{expires}:::::{uses}::::::23:"
SUBNAME = "fpr:::::::::" + "B" * 40 + ":"


def lines(primary_expires: str = "", primary_uses: str = "scESC", *subkeys: tuple[str, str]) -> list[str]:
    listing = [
        PRIMARY.format(expires=primary_expires, uses=primary_uses),
        NAME,
        "uid:-::::1::H::a@example.com:::::::::0:",
    ]
    for expires, uses in subkeys:
        listing += [SUBKEY.format(expires=expires, uses=uses), SUBNAME]
    return listing


@pytest.mark.parametrize(
    ("listing", "expires", "usable"),
    [
        (lines("", "scESC", ("", "e")), None, True),
        (lines("1800000000", "scESC", ("1900000000", "e")), 1800000000, True),
        (lines("1900000000", "scESC", ("1800000000", "e")), 1800000000, True),
        (lines("", "scESC", ("1800000000", "e"), ("1900000000", "e")), 1900000000, True),  # the newer one is used
        (lines("", "scSC"), None, False),
        (lines("", "scSC", ("", "s")), None, False),
        (lines("", "escESC"), None, True),
    ],
)
def test_expiry_and_use(listing: list[str], expires: int | None, usable: bool) -> None:
    key = parse_public_key(FILE, listing)
    assert (key.fingerprint, key.expires, key.usable) == ("F" * 40, expires, usable)


@pytest.mark.parametrize("listing", [[], ["tru::1:1:1:3:1:5"], ["uid:-::::1::H::a@example.com:::::::::0:"]])
def test_what_lists_no_key_is_refused(listing: list[str]) -> None:
    with pytest.raises(UnfitError, match="holds no public key"):
        parse_public_key(FILE, listing)
