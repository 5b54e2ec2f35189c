"""The keys: more recipients for old backups, signatures, who can open what, and whether today's keys really do."""

from pgbackup.keys.add import KeysAdded, add_keys
from pgbackup.keys.check import check_keys
from pgbackup.keys.report import KeyReport, KeyUse, Opens, report_keys
from pgbackup.keys.sign import sign_backups

__all__ = ["KeyReport", "KeyUse", "KeysAdded", "Opens", "add_keys", "check_keys", "report_keys", "sign_backups"]
