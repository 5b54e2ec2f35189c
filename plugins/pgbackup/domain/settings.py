"""protocol.yaml as typed settings. Every error names the path in the file and, for a misspelt key, the nearest one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.ids import CLUSTER_NAME

LOCAL = "local"
"""The name of the repository in `paths.backups`."""

_UNITS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "d": 86400, "day": 86400, "days": 86400, "w": 604800}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")


def parse_duration(value: object) -> object:
    """Read ``90s``, ``15 min``, ``4h``, ``14 days``; other values are left to pydantic.

    >>> parse_duration("15 min")
    datetime.timedelta(seconds=900)
    """
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{value!r} is not a duration; write a number and one of {', '.join(_UNITS)}")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


_SIZES = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]b)\s*")


def parse_size(value: object) -> object:
    """Read ``500 MB``, ``16GB`` (powers of 1024, as PostgreSQL has them) into bytes; other values are left to pydantic.

    >>> parse_size("2 kB")
    2048
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.lower())
    if match is None:
        raise ValueError(f"{value!r} is not a size; write a number and one of kB, MB, GB, TB")
    return int(float(match[1]) * _SIZES[match[2]])


Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration), Field(gt=timedelta(0))]


class Section(BaseModel):
    """A part of the file: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Connection(Section):
    """Where a server is reached: by an Airflow connection, by a libpq service, or by either."""

    airflow_conn_id: str | None = None
    """Airflow's connection; DAG runs use it."""
    service: str | None = None
    """A section of pg_service.conf; the command line uses it."""
    passfile: Path | None = None
    """The libpq password file (0600), when it is not libpq's default."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.airflow_conn_id is None and self.service is None:
            raise ValueError("name an airflow_conn_id, a service, or both")
        return self


class Paths(Section):
    """Folders on the machine that runs the backups; each is made with mode 0700 when missing."""

    backups: Path = Path("/backups")
    """The local repository."""
    logs: Path = Path("/var/log/backups")
    """One log file a run, mode 0640."""
    received: Path | None = None
    """Where WAL receivers write, one private folder a cluster; default: `.received` in the local repository."""
    recovered: Path | None = None
    """Where DAG runs put recovered clusters, one folder a run; default: `.recovered` in the local repository."""
    spool: Path | None = None
    """Private scratch for decrypted files and throw-away servers; default: `.spool` in the local repository."""
    service_file: Path | None = None
    """The pg_service.conf of the connections' services, when it is not libpq's default."""
    postgres_bin: Path | None = None
    """The folder of pg_dump and its family, `{major}` being the server's; default: Debian's folders, then PATH."""

    @property
    def spool_folder(self) -> Path:
        """The spool, with its default."""
        return self.spool or self.backups / ".spool"

    @property
    def received_folder(self) -> Path:
        """The receivers' folder, with its default."""
        return self.received or self.backups / ".received"

    @property
    def recovered_folder(self) -> Path:
        """The folder of recovered clusters, with its default."""
        return self.recovered or self.backups / ".recovered"

    @property
    def incidents_folder(self) -> Path:
        """The journal and the report of each disaster recovery, one private folder each."""
        return self.backups / ".incidents"

    @property
    def reports_folder(self) -> Path:
        """What reviews, audits and drills reported, one private folder a cluster."""
        return self.backups / ".reports"

    @property
    def state_folder(self) -> Path:
        """What the next capture needs of the last one, in the clear: backup manifests, mode 0600."""
        return self.backups / ".state"


class Lock(Section):
    """Object lock: what is stored cannot be deleted or replaced, by anybody. The bucket must be made for it."""

    mode: Literal["governance", "compliance"] = "governance"
    """`governance`: an account with the right to may lift it; `compliance`: nobody can."""
    retain: Duration | None = None
    """How long each object is locked from when it is stored."""
    legal_hold: bool = False
    """Locked until somebody lifts the hold."""


class S3(Section):
    """A bucket. Region, endpoint and credentials are those of the connection or of the profile."""

    bucket: str
    """Its name."""
    prefix: str = ""
    """A folder in the bucket; default: all of it."""
    airflow_conn_id: str | None = None
    """Airflow's connection; DAG runs use it; default: AWS's own environment and roles."""
    profile: str | None = None
    """A profile of ~/.aws/config; the command line uses it; default: AWS's own environment and roles."""
    storage_class: str | None = None
    """`STANDARD_IA`, ...; default: the bucket's."""
    encryption: Literal["AES256", "aws:kms"] | None = None
    """At rest, by the storage, besides ours; default: as the bucket is set."""
    kms_key: str | None = None
    """The key of `aws:kms`; default: the account's."""
    checksums: bool = True
    """The storage keeps the SHA-256 of each object. Off: for one that refuses x-amz-checksum-sha256; an MD5 guards the
    way there then, and comparing reads the objects back."""
    lock: Lock | None = None
    """Object lock of what is stored."""
    timeout: Duration = timedelta(minutes=1)
    """How long the storage may stay silent before a request is tried again."""


class Repository(Section):
    """Another place that holds copies of all backups and of the WAL: a folder or a bucket."""

    folder: Path | None = None
    """A mounted file system."""
    s3: S3 | None = None
    """A bucket of S3, or of a storage that speaks its protocol."""
    url: Annotated[str, Field(pattern=r"(gs|az|abfs)://[^/]+(/.*)?")] | None = None
    """`gs://bucket/folder` or `az://container/folder`; needs pgbackup[gcs] or pgbackup[azure], and the credentials of
    the environment."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if [self.folder, self.s3, self.url].count(None) != 2:
            raise ValueError("name a folder, an s3 bucket or a url, one of them")
        return self


class Encryption(Section):
    """GPG. The capturing side needs public keys only; private ones live only where backups are proved or recovered."""

    enabled: bool = True
    """Off writes plain files: only for a repository that is encrypted by other means."""
    recipients: tuple[Path, ...] = ()
    """Public key files, one for each person or machine that may open the backups."""
    private_keys: tuple[Path, ...] = ()
    """Secret key files (0600) of the verifying or recovering side."""
    passphrase_file: Path | None = None
    """The secret keys' passphrase (0600); none for keys without one."""
    escrow: tuple[Path, ...] = ()
    """Those of the recipients that must always be among them: kept off-line, for the day every other key is lost."""
    signing_key: Path | None = None
    """A secret key file (0600) that signs each backup's SHA256SUMS; a key of its own, that only signs."""
    signing_passphrase_file: Path | None = None
    """The signing key's passphrase (0600); none for a key without one."""
    verify_keys: tuple[Path, ...] = ()
    """Public key files whose signatures count: then a backup without one of them is refused; default: none is asked
    for."""
    warn_before: Duration = timedelta(days=30)
    """How long before a key expires an alert is raised."""

    @model_validator(mode="after")
    def _somebody_can_read(self) -> Self:
        if self.enabled and not self.recipients:
            raise ValueError("encryption is on: name at least one public key file in recipients")
        if not self.enabled and (self.signing_key or self.verify_keys):
            raise ValueError("encryption is off: nothing is signed then, leave out signing_key and verify_keys")
        if set(self.escrow) - set(self.recipients):
            raise ValueError("each key of escrow must be among the recipients")
        return self


class Query(Section):
    """A question of the application that a restored database must answer in time."""

    database: str
    """Where it is asked."""
    sql: str
    """One statement, as `application_role`; an error is a finding, its rows are not looked at."""
    within: Duration = timedelta(seconds=5)
    """A later answer is a finding."""


class Fingerprints(Section):
    """The content comparison: a row count and a content hash of every table."""

    enabled: bool = True
    """Off: a backup is restored, but not compared with its source."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Connections that read tables beside the dump, all in the dump's snapshot."""
    exclude: tuple[str, ...] = ()
    """Tables (`schema.table`, or `database.schema.table`) that are too dear to compare; every verdict names them."""


class FullBackup(Section):
    """The night: the logical dump of every database and the globals, and the physical base backup."""

    schedule: str = "0 2 * * *"
    """Cron, UTC."""
    compression: Annotated[str, Field(pattern=r"none|gzip(:[1-9])?|lz4(:\d+)?|zstd(:\d+)?")] = "zstd:1"
    """pg_dump --compress; measured: zstd:1 is smaller than gzip and five times as fast. Before PostgreSQL 16 there is
    only gzip: its fastest level stands in for zstd and lz4."""
    base: bool = True
    """Take a physical base backup as well, proved by the same fingerprints; needs REPLICATION and WAL streaming."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 1
    """More than one uses the directory format, packed into one tar a database through the spool."""
    due: Duration = timedelta(hours=1)
    """A backup that takes longer raises an alert."""
    lock_timeout: Duration = timedelta(minutes=1)
    """How long to wait for a table's lock before giving up and trying again."""


class IncrementalBackup(Section):
    """What changed since the last physical backup."""

    schedule: str = "0 */6 * * *"
    """Cron, UTC."""
    method: Literal["auto", "block", "wal"] = "auto"
    """`block`: changed blocks (PostgreSQL 17 with summarize_wal); `wal`: a gap-checked bundle of the archived WAL;
    `auto`: block where the server can."""
    longest_chain: Annotated[int, Field(ge=1, le=1000)] = 12
    """How many incrementals a base may have; then the next one is a base."""
    due: Duration = timedelta(hours=1)
    """An incremental that takes longer raises an alert."""
    fingerprints: Fingerprints | None = None
    """The content comparison of incrementals; default: the cluster's own `fingerprints`."""


class Wal(Section):
    """Continuous WAL archiving: by our receiver (`pgbackup wal receive`) or by the server's archive_command."""

    method: Literal["receiver", "archive_command"] = "receiver"
    """`receiver`: streamed through a replication slot, second by second; `archive_command`: archive_wal.sh."""
    slot: Annotated[str, Field(pattern=r"[a-z0-9_]{1,63}")] = "pgbackup"
    """The receiver's physical replication slot; it is never created by itself: `pgbackup wal create-slot`."""
    synchronous: bool = True
    """Flush and report each write at once: the server can see it (pg_stat_replication), and wait for it."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Segments that are compressed and encrypted at the same time."""
    retained: Size = 10 << 30
    """WAL that the server may keep for the slot before an alert: a dead receiver fills the server's disk."""
    stale: Duration = timedelta(minutes=5)
    """How long the archive may lag behind the server before an alert."""
    watch: str = "*/5 * * * *"
    """When the archive is watched; cron, UTC."""


class Copies(Section):
    """What is off-site: backups as soon as they are captured, WAL all day long."""

    schedule: str = "*/5 * * * *"
    """When sealed WAL is copied to every repository; cron, UTC."""
    late: Duration = timedelta(minutes=30)
    """How long sealed WAL may be missing in a repository before an alert."""
    backup_late: Duration = timedelta(hours=6)
    """How long a backup may be missing in a repository before an alert; what failed is copied with the next one."""


class Load(Section):
    """How much of the machines a backup may take."""

    max_rate: Annotated[str, Field(pattern=r"\d+[kM]?")] | None = None
    """pg_basebackup --max-rate: kilobytes a second, or with k, M; default: as fast as it goes."""
    nice: Annotated[int, Field(ge=0, le=19)] = 0
    """Added to the priority of the programs that a capture starts; receivers and restore tests keep theirs."""
    ionice: Literal["best-effort", "idle"] | None = None
    """Their input/output class: `idle`, or `best-effort` at its lowest level."""


class VerifyBackup(Section):
    """The restore test."""

    schedule: str = "0 5 * * *"
    """When what was missed is verified, and one more copy of each repository; cron, UTC."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """pg_restore --jobs, pg_amcheck --jobs and the connections that compare contents."""
    application_role: str | None = None
    """A role that must be able to connect to the restored databases; it also runs the queries."""
    queries: tuple[Query, ...] = ()


class Control(Section):
    """How this machine stops and starts the server, for a recovered cluster that takes its place."""

    data_directory: Path
    """The server's data directory, as this machine sees it."""
    stop: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A program and its arguments (no shell) that ends when the server is down; default: `pg_ctl stop --mode=fast`."""
    start: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A program and its arguments that starts the server and ends; default: pg_ctl, with the options the server had."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.data_directory.is_absolute():
            raise ValueError("data_directory: write the whole path")
        if (self.stop is None) != (self.start is None):
            raise ValueError("name both stop and start, or neither")
        return self


class Recovery(Section):
    """Who has to agree before a DAG run recovers anything."""

    approval: bool = True
    """Somebody must approve the plan; off: for recoveries that nobody waits for, such as drills."""
    approvers: tuple[str, ...] = ()
    """Ids of the users who may, as Airflow's auth manager has them; none: whoever may answer the DAG's questions."""
    four_eyes: bool = False
    """Who asked for the recovery cannot approve it."""
    within: Duration = timedelta(minutes=30)
    """How long the question stands; unanswered, the run fails and nothing was touched."""

    @model_validator(mode="after")
    def _asked(self) -> Self:
        if not self.approval and (self.approvers or self.four_eyes):
            raise ValueError("approval is off: nobody is asked, leave out approvers and four_eyes")
        return self


class Drill(Section):
    """The quarterly recovery tests, into isolation."""

    schedule: str = "0 6 1 1,4,7,10 *"
    """Cron, UTC."""
    due: Duration = timedelta(hours=4)
    """A run that takes longer raises an alert."""
    oldest: Duration = timedelta(days=100)
    """An alert when a scenario was not drilled for so long, or never since the first backup."""
    table: str | None = None
    """The table that is recovered alone (`schema.table`, or `database.schema.table`); default: the one with most
    rows."""


class Audit(Section):
    """The storage audit: modes, encryption, buckets, credentials, orphans, missing copies, keys."""

    schedule: str = "0 8 * 1,4,7,10 MON#1"
    """Cron, UTC; `MON#1` is a month's first Monday."""


class Sizes(Section):
    """An alert when a backup's size is not what comparable ones have: same kind, same weekday where there are enough.

    A database that grew explains a backup that grew with it; what varies much by itself is given more room.
    """

    deviation: Annotated[float, Field(gt=0, le=10)] = 0.2
    """The part of the median by which a size may differ."""
    floor: Size = 16 << 20
    """What may differ in any case: small databases vary much."""
    history: Annotated[int, Field(ge=2, le=50)] = 4
    """So many comparable backups before anything is judged."""


class Reviews(Section):
    """The protocol's weekly and monthly maintenance lists, looked at and reported."""

    weekly: str = "0 8 * * 1"
    """Cron, UTC; a test mail is sent, too."""
    monthly: str = "0 8 2 * *"
    """Cron, UTC."""


class Retention(Section):
    """How long backups stay. Only verified ones count for a rule, and ages are counted to the newest verified one:
    while new backups fail, nothing goes. Years, months and ISO weeks are those of UTC.
    """

    daily: Duration = timedelta(days=30)
    """Every dump of so long."""
    weekly: Duration = timedelta(weeks=12)
    """The first dump of each ISO week of so long."""
    monthly: Annotated[int, Field(ge=0, le=1200)] = 12
    """The first dump of each month of so many months."""
    yearly: Annotated[int, Field(ge=0, le=1000)] | None = None
    """The first dump of each year of so many years; null: for ever."""
    incremental: Duration = timedelta(days=7)
    """Incrementals, and longer where one that stays stands on them."""
    window: Duration = timedelta(days=14)
    """The recovery window: every moment of it can be reached; WAL and base backups stay as long as it needs them."""
    unverified: Duration = timedelta(days=14)
    """Backups that nobody has proved."""
    rejected: Duration = timedelta(days=14)
    """Rejected backups, for study."""
    unfinished: Duration = timedelta(days=2)
    """What a capture or a copy that was killed has left."""


class Cluster(Section):
    """A PostgreSQL server that is protected."""

    connection: Connection
    recovery_connection: Connection | None = None
    """For recovering databases and tables into this server: a role that may make databases and objects of other owners,
    a superuser most simply; default: `connection`, whose role is meant to read only."""
    exclude_databases: tuple[str, ...] = ()
    """Databases that are not dumped; the physical chain holds them all the same."""
    queue: Annotated[str, Field(pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]{0,255}")] | None = None
    """The queue of every task of its DAGs, for the workers on the machine that has its files; default: Airflow's."""
    executor: str | None = None
    """The executor of every task of its DAGs, among those of Airflow's `[core] executor`; default: the first there."""
    full_backup: FullBackup = FullBackup()
    incremental_backup: IncrementalBackup = IncrementalBackup()
    wal: Wal = Wal()
    copies: Copies = Copies()
    load: Load = Load()
    verify_backup: VerifyBackup = VerifyBackup()
    recovery: Recovery = Recovery()
    drill: Drill = Drill()
    audit: Audit = Audit()
    reviews: Reviews = Reviews()
    sizes: Sizes = Sizes()
    control: Control | None = None
    """For putting a recovered cluster in this one's place (`pgbackup recover switch`); none: that is refused."""
    retention: Retention = Retention()
    fingerprints: Fingerprints = Fingerprints()


class Mail(Section):
    """Who hears of every completion and failure."""

    airflow_conn_id: str = "pgbackup_smtp"
    """Airflow's SMTP connection."""
    sender: str
    """The From of every mail."""
    recipients: Annotated[tuple[str, ...], Field(min_length=1)]
    """Their addresses."""


class Notifier(Section):
    """Any Airflow notifier (Slack, Apprise, PagerDuty ...); hears of failures and alerts, beside the mail."""

    path: Annotated[str, Field(alias="class", pattern=r"[A-Za-z_][\w.]*\.[A-Za-z_]\w*")]
    """Where it is imported from: `airflow.providers.slack.notifications.slack.SlackNotifier`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What it is made with; `{{ subject }}`, `{{ text }}` and `{{ link }}` stand for the message."""


class Contact(Section):
    """Somebody to call; printed in every alert."""

    role: str
    """What somebody is called for: `Database Administrator`."""
    name: str
    """Who it is."""
    reach: str
    """Telephone, e-mail, pager: whatever works at 3 a.m."""


class Objectives(Section):
    """What recovery must achieve; measured by drills and by the heartbeat."""

    rto: Duration = timedelta(hours=4)
    """How long a recovery may take."""
    rpo: Duration = timedelta(hours=1)
    """How much of the last work may be lost."""


class Settings(Section):
    """The whole file."""

    version: Literal[1]
    """Of this file's form."""
    paths: Paths = Paths()
    repositories: dict[str, Repository] = Field(default_factory=dict)
    """Besides `local`, by name: each backup and all WAL is copied there; recoveries and `catalog rebuild` read them."""
    catalog: Connection
    encryption: Encryption = Field(default_factory=Encryption, validate_default=True)
    objectives: Objectives = Objectives()
    mail: Mail | None = None
    notifiers: tuple[Notifier, ...] = ()
    contacts: tuple[Contact, ...] = ()
    capture_pool: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """An Airflow pool, made with `airflow pools set`: each capture takes a slot of it, so that no more of them run at
    once over all clusters; default: Airflow's default pool."""
    clusters: Annotated[dict[str, Cluster], Field(min_length=1)]

    @model_validator(mode="after")
    def _cluster_names(self) -> Self:
        for name in self.clusters:
            if not CLUSTER_NAME.fullmatch(name):
                raise ValueError(f"cluster name {name!r} must match ^{CLUSTER_NAME.pattern}$")
        return self

    @model_validator(mode="after")
    def _repository_names(self) -> Self:
        for name in self.repositories:
            if name == LOCAL or not CLUSTER_NAME.fullmatch(name):
                raise ValueError(f"repository name {name!r} must match ^{CLUSTER_NAME.pattern}$ and not be {LOCAL!r}")
        return self

    def cluster(self, name: str) -> Cluster:
        """Return a cluster's section; raises ConfigurationError with the nearest name."""
        if name in self.clusters:
            return self.clusters[name]
        raise ConfigurationError(
            "no such cluster", detail=repr(name[:80]), hint=_nearest(name, self.clusters) or "see `clusters`"
        )


def parse_settings(document: object, *, source: str) -> Settings:
    """Turn the parsed YAML into Settings; raises ConfigurationError that names each wrong place."""
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"{source} holds no settings", hint="start from include/config/protocol.yaml")
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        problems = "\n".join(_problems(error))
        raise ConfigurationError(
            f"{source} is not valid",
            detail=problems,
            hint="include/config/protocol.yaml shows every key with its meaning",
        ) from None


def _problems(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path = ".".join(str(part) for part in item["loc"]) or "the file"
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = "unknown key" + _suggestion(item["loc"])
        yield f"{path}: {text}"


def _suggestion(path: tuple[int | str, ...]) -> str:
    section: type[Section] = Settings
    for part in path[:-1]:  # names of clusters and list indexes are no fields: they stay in the section before
        field = section.model_fields.get(str(part))
        if field is not None:
            section = _section_of(field.annotation) or section
    known = section.model_fields
    near = _nearest(str(path[-1]), known)
    return f"; {near}" if near else f"; valid keys: {', '.join(known)}"


def _section_of(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None


def _nearest(word: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""
