"""Whether what rests in a repository is encrypted, and for whom: read from the beginning of each object."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import datetime
from secrets import randbelow

from pgbackup.audit import names
from pgbackup.audit.judge import Wrong, judged
from pgbackup.domain.errors import RefusedError
from pgbackup.domain.ids import BackupId
from pgbackup.domain.model import Finding, ObjectInfo, Severity
from pgbackup.domain.openpgp import Packet, first_packets
from pgbackup.domain.ports import Site, Store

_BEGINNING = 1 << 14
"""Bytes; the names of many recipients fit in."""
_NEWEST = _RANDOM = 100

_REWRITE = "take a new backup, then delete this one: anybody who reaches the repository can read it"


class Sample:
    """The newest objects, and as many at random out of all: so much is kept of a listing, however long it is."""

    def __init__(self) -> None:
        self._newest: list[tuple[datetime, str]] = []
        self._random: list[tuple[datetime, str]] = []
        self.count = 0

    def add(self, info: ObjectInfo) -> None:
        """Offer one more."""
        one = (info.modified, info.key)
        self.count += 1
        heapq.heappush(self._newest, one)
        if len(self._newest) > _NEWEST:
            heapq.heappop(self._newest)
        if len(self._random) < _RANDOM:
            self._random.append(one)
        elif (place := randbelow(self.count)) < _RANDOM:
            self._random[place] = one

    def keys(self) -> list[str]:
        """Return what was drawn, newest first."""
        return [key for _, key in sorted({*self._newest, *self._random}, reverse=True)]


class Seals:
    """Looks into the objects of one repository."""

    def __init__(self, site: Site, store: Store) -> None:
        self._site = site
        self._store = store
        self._sample = Sample()
        self._plain = Wrong(names.ENCRYPTED, _REWRITE)
        self._plain_wal = Wrong(names.WAL_ENCRYPTED, _REWRITE)
        self._readers: dict[str, tuple[str, frozenset[str]]] = {}
        self._count = 0

    def backup(self, backup_id: BackupId, data: list[str], keys: list[str], *, encrypted: bool) -> None:
        """Look at a backup's data and at its key files, by name; SHA256SUMS need not list all of these."""
        if not encrypted:
            if self._site.settings.encryption.enabled:
                self._plain.add(f"{backup_id} was captured while encryption was off")
            return
        for key in map(backup_id.key, data):
            if self._begins(key) != {Packet.FOR_PASSPHRASE}:
                self._plain.add(f"{key} is not encrypted with a passphrase")
        readers: frozenset[str] = frozenset()
        for key in map(backup_id.key, keys):
            if self._begins(key) != {Packet.FOR_KEY}:
                self._plain.add(f"{key} is not encrypted for a key")
            else:
                readers |= self._opened_by(key)
        self._readers[f"{backup_id.cluster} {backup_id.kind}"] = (str(backup_id), readers)  # ids come oldest first

    def wal(self, info: ObjectInfo) -> None:
        """Note an archived file."""
        if info.key.endswith(".gpg"):
            self._sample.add(info)
        elif self._site.settings.encryption.enabled:
            self._plain_wal.add(f"{info.key} is not encrypted")

    def other(self, key: str) -> None:
        """Look at an encrypted object beside the backups."""
        if self._begins(key) != {Packet.FOR_KEY}:
            self._plain.add(f"{key} is not encrypted for a key")

    def findings(self) -> Iterator[Finding]:
        """Look at the WAL that was drawn, then tell everything."""
        drawn = self._sample.keys()
        for key in drawn:
            if self._begins(key) != {Packet.FOR_KEY}:
                self._plain_wal.add(f"{key} is not encrypted for a key")
            elif (cluster := key.split("/")[1]) + " WAL" not in self._readers:
                self._readers[f"{cluster} WAL"] = (key.rsplit("/", 1)[1], self._opened_by(key))
        if not self._site.settings.encryption.enabled:
            detail = "encryption is off by configuration"
            hint = "switch `encryption` on, unless the repository is encrypted by other means"
            yield judged(names.ENCRYPTED, False, detail, hint, severity=Severity.WARNING)
            return
        yield self._plain.finding(f"the beginning of {self._count - len(drawn)} objects read")
        how = f"the newest {_NEWEST} and {_RANDOM} at random" if len(drawn) < self._sample.count else "all"
        yield self._plain_wal.finding(f"{len(drawn)} of {self._sample.count} files read: {how}")
        yield self._recipients()

    def _recipients(self) -> Finding:
        configured = frozenset(self._site.keyring.recipients())
        wrong = Wrong(
            names.RECIPIENTS,
            "a recipient is missing: `pgbackup keys add`, or wait for the next backup; somebody else can read: find out"
            " who encrypted it, unless that key was a recipient until now",
        )
        for name, readers in self._readers.values():
            if missing := configured - readers:
                wrong.add(f"{name} does not open for {', '.join(sorted(missing))}")
            if others := readers - configured:
                wrong.add(f"{name} opens for {', '.join(sorted(others))}, too")
        return wrong.finding(", ".join(sorted(f"{what}: {name}" for what, (name, _) in self._readers.items())))

    def _begins(self, key: str) -> frozenset[Packet]:
        self._count += 1
        try:
            with self._store.open(key) as source:
                return first_packets(source.read(_BEGINNING))
        except RefusedError:
            return frozenset()  # it is gone: that is another finding

    def _opened_by(self, key: str) -> frozenset[str]:
        with self._store.open(key) as source:
            return self._site.keyring.sealed_for(source.read(_BEGINNING))
