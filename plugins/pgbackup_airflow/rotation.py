"""Rotation by DAG: what goes from each repository is shown, then deleted; a mail tells both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context, task_group
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.report.news import ROTATION, News, compose_news
from pgbackup.rotate import apply, plan
from pgbackup.rotate.text import applied_text, plan_text
from pgbackup_airflow.notifier import Notice, ProtocolNotifier
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown

_PLAN, _APPLY = "rotate.plan", "rotate.apply"
_PATIENCE = 60
"""Tries, two minutes apart, while a backup of the cluster is taken."""


class ListRepositoriesOperator(ProtocolOperator):
    """Say which repositories there are."""

    def execute(self, context: Context) -> list[str]:
        """Return their names."""
        refuse_unknown(context, allowed=())
        with self.site(context) as site:
            return list(site.repositories)


class PlanRotationOperator(ProtocolOperator):
    """Plan the rotation of one repository and show it."""

    template_fields: Sequence[str] = ("repository",)

    def __init__(self, *, repository: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.repository = repository

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan's document and its text."""
        with self.site(context) as site:
            planned = plan(site, self.cluster, self.repository)
        text = plan_text(planned)
        self.log.info("%s", text)
        return {"plan": planned.document(), "text": text}


class RotateOperator(ProtocolOperator):
    """Delete what the plan let go, and what is still to go."""

    template_fields: Sequence[str] = ("repository", "planned")

    def __init__(self, *, repository: Any, planned: Any, **kwargs: Any) -> None:
        super().__init__(retries=_PATIENCE, **kwargs)
        self.repository = repository
        self.planned = planned

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what went, as text; fails at once when something could not be deleted."""
        with self.site(context) as site:
            applied = apply(site, self.planned["plan"])
        text = applied_text(applied)
        self.log.info("%s", text)
        if applied.failures:
            raise AirflowFailException(text)
        return {"text": text}


def rotate_repositories(cluster: str) -> None:
    """Lay out the tasks: each repository by itself, so that one that is down delays no other."""

    @task_group(group_id="rotate")
    def rotate(repository: str) -> None:
        """Rotate one repository."""
        one: dict[str, Any] = {"cluster": cluster, "repository": repository}
        one["map_index_template"] = "{{ task.repository }}"
        shown = PlanRotationOperator(task_id="plan", task_display_name="plan", **one)
        RotateOperator(task_id="apply", task_display_name="delete", planned=shown.output, **one)

    repositories = ListRepositoriesOperator(task_id="repositories", cluster=cluster)
    rotate.expand(repository=repositories.output)


class RotationMail(ProtocolNotifier):
    """Mails the end of a rotation: what went, and why the rest stays."""

    def tell(self, context: Context, notice: Notice) -> None:
        """Send it with what was deleted, then the plans."""
        news = News(
            self.cluster,
            self.procedure,
            ROTATION,
            bool(self.succeeded),
            notice.run,
            notice.link,
            text="\n\n".join([*_texts(context, _APPLY), *_texts(context, _PLAN)]),
            reason="" if self.succeeded else str(context.get("reason") or ""),
            contacts=notice.settings.contacts,
        )
        notice.send(*compose_news(news))


def _texts(context: Context, task_id: str) -> list[str]:
    """Return what the mapped tasks wrote; a run that ended without any task has no ``ti``."""
    instance = context.get("ti")
    written = instance.xcom_pull(task_ids=task_id) if instance else None
    found = written if isinstance(written, list | tuple) else [written]
    return [str(one["text"]) for one in found if one]
