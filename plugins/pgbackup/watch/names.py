"""What the watch looks at, by name. The names are the catalog's keys: a mail tells when one changes."""

SERVER = "server answers"
CATALOG = "catalog answers"
ARCHIVE = "archive can be read"
CONTINUITY = "archive has no gap"
CONFLICTS = "each WAL file has one content"
SLOT = "replication slot keeps what is missing"
RECEIVER = "receiver is alive"
ARCHIVER = "archiver works"
RETAINED = "server does not pile up WAL"
LAG = "archive keeps up with the server"
RPO = "possible loss is within the objective"
BACKUP = "there is a recent verified backup"
DRILL = "each recovery was drilled lately"
KEYS = "no key is about to expire"
FINISHED = "the watch comes to its end"


def wal_in(repository: str) -> str:
    """The off-site WAL of one repository."""
    return f"WAL is in {repository}"


def backups_in(repository: str) -> str:
    """The off-site backups of one repository."""
    return f"backups are in {repository}"
