"""Names: backup ids, the directories and files of a repository. The only place that knows how they are built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from urllib.parse import quote, unquote

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.model import Kind

CLUSTER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_ID = re.compile(r"(?P<cluster>[a-z][a-z0-9_-]{0,30})_(?P<stamp>\d{8}_\d{6})_(?P<suffix>full|base|incr)")
_SUFFIX = {Kind.FULL: "full", Kind.BASE: "base", Kind.INCREMENTAL: "incr"}
_KIND = {suffix: kind for kind, suffix in _SUFFIX.items()}

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
"""A binary detached gpg signature of SHA256SUMS; not listed in it."""
RECOVERY = "recovery/"
"""The recovery sheet's editions, in every repository."""
KEY_FILE = re.compile(r"key\.([1-9][0-9]{0,8})\.gpg")
"""A wrapped passphrase; a database may be called ``key.1``, whose file is ``key.1.dump.gpg``. SHA256SUMS lists the
first one; later ones are added when recipients change."""
_LISTED_KEY = "key.1.gpg"
_ATTEST = "attest/"


@dataclass(frozen=True, order=True)
class BackupId:
    """``<cluster>_<YYYYmmdd_HHMMSS>_<full|base|incr>``, in UTC; also the name of the backup's directory."""

    cluster: str
    stamp: str
    kind: Kind

    @classmethod
    def at(cls, cluster: str, moment: datetime, kind: Kind) -> Self:
        """Build the id of a backup that starts at ``moment`` (any time zone)."""
        return cls(cluster, moment.astimezone(UTC).strftime("%Y%m%d_%H%M%S"), kind)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id; raises ConfigurationError when the text is none."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                "not a backup id",
                detail=repr(text[:80]),
                hint="ids look like streamflix_20260131_020000_full; `pgbackup list` prints them",
            )
        return cls(match["cluster"], match["stamp"], _KIND[match["suffix"]])

    def __str__(self) -> str:
        return f"{self.cluster}_{self.stamp}_{_SUFFIX[self.kind]}"

    @property
    def directory(self) -> str:
        """The backup's place in every repository."""
        return f"{self.kind.value}/{self}"

    def key(self, name: str) -> str:
        """The repository key of one of the backup's files."""
        return f"{self.directory}/{name}"


def is_extra(name: str) -> bool:
    """Tell whether a backup's file is one that SHA256SUMS does not list: signature, later keys, what was attested."""
    later_key = KEY_FILE.fullmatch(name) is not None and name != _LISTED_KEY
    return name == SIGNATURE or later_key or name.startswith(_ATTEST)


def encode_database(name: str) -> str:
    """Make a file name of any database name; inverse of decode_database.

    >>> encode_database("../x y")
    '%2E.%2Fx%20y'
    """
    encoded = quote(name, safe="")
    return "%2E" + encoded[1:] if encoded.startswith(".") else encoded


def decode_database(encoded: str) -> str:
    """Return the database name behind a file name."""
    return unquote(encoded)
