"""What the audit's findings are called; people and programs know them by these names."""

ANSWERS = "the repository can be read"

PRIVATE = "files and folders are private"
OWNER = "files belong to the backup's account"
LINKS = "no link leads out"
ONE_FILE_SYSTEM = "everything is on one file system"

ENCRYPTED = "backups are encrypted"
WAL_ENCRYPTED = "WAL is encrypted"
RECIPIENTS = "the newest opens for today's recipients alone"
WHOLE = "backups are whole"
ORPHANS = "nothing is orphaned"
STRANGERS = "everything here is known"
AGREES = "catalog and repository agree"
COPIES = "every backup is here"
WAL = "all WAL is here"

VERSIONS = "the bucket keeps versions"
LOCK = "the bucket locks as configured"
NOT_PUBLIC = "the bucket is not public"
BLOCKED = "the bucket blocks public access"
AT_REST = "the bucket encrypts at rest"
CREDENTIALS = "the credentials can do no more than they must"

SECRETS = "keys, passwords and scratch folders are private"
LOGS = "logs are private"
EXPIRY = "no key expires soon"


def role_of(cluster: str) -> str:
    """Name the finding about the role that captures a cluster."""
    return f"the role that backs up {cluster} only reads"
