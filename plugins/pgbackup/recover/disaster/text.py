"""What people read before they approve: the plan of the recovery, and the plan of the cutover. Markdown."""

from __future__ import annotations

from pgbackup.domain.incident import Incident
from pgbackup.domain.ports import Site
from pgbackup.recover.ahead import Foresight
from pgbackup.recover.disaster.cutover import Cutover
from pgbackup.recover.markdown import findings_table, plain, span
from pgbackup.recover.switch_text import switch_steps
from pgbackup.recover.switchable import obstacle_to_switch
from pgbackup.recover.text import ASKED_AGAIN, plan_text


def disaster_plan_text(site: Site, incident: Incident, ahead: Foresight) -> str:
    """Show what happened, what is left, and what will be done beside it."""
    obstacle = obstacle_to_switch(site, ahead.plan.cluster, ahead.request.into)
    scope = [part for event in incident.last().values() for part in event.detail.split("; ")]
    return "\n".join(
        [
            f"**{plain(incident.events[0].detail)}**, declared {incident.declared_at:%Y-%m-%d %H:%M:%S} UTC.",
            "",
            *(f"- {plain(one)}" for one in scope),
            "",
            plan_text(ahead),
            *([f"- **note**: {plain(obstacle)}"] if obstacle else []),
            ASKED_AGAIN,
        ]
    )


def cutover_text(site: Site, incident: Incident, plan: Cutover, recovered_at: str) -> str:
    """Show what the validation found, how late it is, and what the switch will do."""
    elapsed = site.clock() - incident.since
    lost = "unknown" if incident.rpo is None else span(incident.rpo)
    objectives = site.settings.objectives
    return "\n".join(
        [
            f"Put the recovered cluster in the place of **{plan.cluster}**? Try it now: {plain(recovered_at)}.",
            "",
            f"So far {span(elapsed)} of {span(objectives.rto)}; lost {lost} of {span(objectives.rpo)} allowed.",
            "",
            *findings_table(sorted(incident.findings, key=lambda one: one.ok)),
            "",
            *_switch(plan),
        ]
    )


def _switch(plan: Cutover) -> list[str]:
    if plan.switch is None:
        return [
            f"**How {plan.cluster} is stopped and started is not configured (`control`): people have to switch.**",
            "When this is approved, do at once:",
            "",
            *(f"{number}. {plain(step)}" for number, step in enumerate(plan.by_hand, 1)),
            "",
            "The task `monitor` is red until that is done: clear it then.",
        ]
    return [f"- {plain(step)}" for step in switch_steps(plan.switch)]
