"""Disaster recovery: the verbs of the protocol's five phases, on a machine that may have nothing but a repository."""

from pgbackup.recover.disaster.assessment import (
    assess_scope,
    plan_facts,
    verify_availability,
)
from pgbackup.recover.disaster.cutover import (
    Cutover,
    monitor,
    plan_cutover,
    refuse_findings,
    switch,
)
from pgbackup.recover.disaster.preparation import prepare_files, provision, restore, verify_integrity
from pgbackup.recover.disaster.text import cutover_text, disaster_plan_text
from pgbackup.recover.disaster.validation import (
    check_connectivity,
    check_data,
    check_functions,
    check_performance,
)

__all__ = [
    "Cutover",
    "assess_scope",
    "check_connectivity",
    "check_data",
    "check_functions",
    "check_performance",
    "cutover_text",
    "disaster_plan_text",
    "monitor",
    "plan_cutover",
    "plan_facts",
    "prepare_files",
    "provision",
    "refuse_findings",
    "restore",
    "switch",
    "verify_availability",
    "verify_integrity",
]
