"""Recovery: plan it, and carry it out beside what is there."""

from pgbackup.recover.ahead import Foresight, Request, foresee
from pgbackup.recover.approval import hold_needed, release_needed
from pgbackup.recover.choices import Choice, backup_choices, only_database, table_choices
from pgbackup.recover.cluster import Recovered, recover_cluster
from pgbackup.recover.cutover import CutOver, CutoverPlan, cut_over, list_old, plan_cutover
from pgbackup.recover.database import DatabasePlan, RecoveredDatabase, plan_database, recover_database
from pgbackup.recover.latest import proved_lately, verify_latest
from pgbackup.recover.origin import FromBackup, FromMoment, Origin
from pgbackup.recover.planning import plan, plan_archived
from pgbackup.recover.put import PutPlan, plan_put, put
from pgbackup.recover.replacement import plan_replacement, replace_present
from pgbackup.recover.rows_text import (
    cutover_plan_text,
    cutover_report_text,
    database_plan_text,
    database_report_text,
    put_plan_text,
    table_plan_text,
    table_report_text,
)
from pgbackup.recover.sources import BEST
from pgbackup.recover.switch import Switched, plan_switch, switch_over
from pgbackup.recover.switch_text import switch_facts, switch_plan_text, switch_steps, switched_text
from pgbackup.recover.switchable import refuse_obstacle, usual_folder
from pgbackup.recover.switching import SwitchPlan
from pgbackup.recover.table import RecoveredTable, TablePlan, Way, plan_table, recover_table
from pgbackup.recover.text import UNTOUCHED, outline_text, plan_text, report_text, stop_command

__all__ = [
    "BEST",
    "UNTOUCHED",
    "Choice",
    "CutOver",
    "CutoverPlan",
    "DatabasePlan",
    "Foresight",
    "FromBackup",
    "FromMoment",
    "Origin",
    "PutPlan",
    "Recovered",
    "RecoveredDatabase",
    "RecoveredTable",
    "Request",
    "SwitchPlan",
    "Switched",
    "TablePlan",
    "Way",
    "backup_choices",
    "cut_over",
    "cutover_plan_text",
    "cutover_report_text",
    "database_plan_text",
    "database_report_text",
    "foresee",
    "hold_needed",
    "list_old",
    "only_database",
    "outline_text",
    "plan",
    "plan_archived",
    "plan_cutover",
    "plan_database",
    "plan_put",
    "plan_replacement",
    "plan_switch",
    "plan_table",
    "plan_text",
    "proved_lately",
    "put",
    "put_plan_text",
    "recover_cluster",
    "recover_database",
    "recover_table",
    "refuse_obstacle",
    "release_needed",
    "replace_present",
    "report_text",
    "stop_command",
    "switch_facts",
    "switch_over",
    "switch_plan_text",
    "switch_steps",
    "switched_text",
    "table_choices",
    "table_plan_text",
    "table_report_text",
    "usual_folder",
    "verify_latest",
]
