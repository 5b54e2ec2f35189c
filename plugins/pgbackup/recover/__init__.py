"""Recovery: plan it, and carry it out beside what is there."""

from pgbackup.recover.ahead import Foresight, Request, foresee
from pgbackup.recover.cluster import Recovered, recover_cluster
from pgbackup.recover.cutover import CutOver, CutoverPlan, cut_over, list_old, plan_cutover
from pgbackup.recover.database import DatabasePlan, RecoveredDatabase, plan_database, recover_database
from pgbackup.recover.latest import proved_lately, verify_latest
from pgbackup.recover.planning import plan
from pgbackup.recover.table import RecoveredTable, TablePlan, Way, plan_table, recover_table
from pgbackup.recover.text import plan_text, report_text

__all__ = [
    "CutOver",
    "CutoverPlan",
    "DatabasePlan",
    "Foresight",
    "Recovered",
    "RecoveredDatabase",
    "RecoveredTable",
    "Request",
    "TablePlan",
    "Way",
    "cut_over",
    "foresee",
    "list_old",
    "plan",
    "plan_cutover",
    "plan_database",
    "plan_table",
    "plan_text",
    "proved_lately",
    "recover_cluster",
    "recover_database",
    "recover_table",
    "report_text",
    "verify_latest",
]
