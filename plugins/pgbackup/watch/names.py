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
SIZE = "backups have their usual size"
DURATION = "backups are taken in time"
VERDICT = "no newest backup is rejected"
SPACE = "the local repository has space"
MAIL = "messages are sent"
TOLD = "people hear of what changes"
FINISHED = "the watch comes to its end"


def wal_in(repository: str) -> str:
    """The off-site WAL of one repository."""
    return f"WAL is in {repository}"


def backups_in(repository: str) -> str:
    """The off-site backups of one repository."""
    return f"backups are in {repository}"


def of_repository(name: str) -> str | None:
    """Return the repository that a name is about, None for any other name."""
    return next((name.removeprefix(start) for start in (wal_in(""), backups_in("")) if name.startswith(start)), None)


_MEANING = {
    SERVER: "Nobody knows now how much would be lost. If the server is gone, the archive and the backups are what you"
    " have: they are untouched.",
    CATALOG: "Nothing is recorded and no backup starts. Recovery works from the command line, from the repositories.",
    ARCHIVE: "Whether moments since the last backup can be reached is not known now.",
    CONTINUITY: "No moment behind the gap can be reached, until a new base backup is taken.",
    CONFLICTS: "A recovery may have to stop at this file: what is behind it may be out of reach.",
    SLOT: "WAL that is missing may be gone for good: then no moment behind it can be reached until a new base.",
    RECEIVER: "Everything written since it stopped is lost if the server is lost now.",
    ARCHIVER: "Everything written since it stopped is lost if the server is lost now.",
    RETAINED: "The server's disk fills; when it is full, production stops.",
    LAG: "What waits is lost if the server is lost now.",
    RPO: "A loss of the server now would cost more than the objective allows.",
    BACKUP: "A recovery would start from an older backup: it takes longer, and one whose proof failed may not work.",
    DRILL: "That a recovery works, and how long it takes, was not shown lately.",
    KEYS: "When it has expired, no new backup can be encrypted for it.",
    SIZE: "The backup may hold less than it should, or fill the disk soon; its verdict says that it equals its source.",
    DURATION: "The newest recovery point is later than planned, and the server is under load for longer.",
    VERDICT: "The rejected backup does not count: the last verified one is what you have.",
    SPACE: "The next backups will be refused for want of space; what is there stays as it is.",
    MAIL: "Alerts reach nobody by that way. Backups and recoveries are not touched by it.",
    TOLD: "Nobody hears of anything: alerts, ends of runs. Backups and recoveries are not touched by it.",
    FINISHED: "Nobody knows now whether everything can be recovered.",
}
_FAR_WAL = "If this machine is lost, the newest moments cannot be recovered from there."
_FAR_BACKUPS = "If this machine is lost, the backups that are missing there cannot be recovered from there."
_OTHER = "Verified backups stay what they are; how far behind them a recovery can reach may be cut short."


def meaning(name: str) -> str:
    """Say what it means for recovery that a finding does not hold."""
    if of_repository(name) is not None:
        return _FAR_WAL if name.startswith(wal_in("")) else _FAR_BACKUPS
    return _MEANING.get(name, _OTHER)
