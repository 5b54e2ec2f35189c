"""What exists is chosen when the run runs: a trigger form is fixed when the DAG is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Recovery
from pgbackup.recover import Choice, backup_choices, only_database
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown
from pgbackup_airflow.recovery.forms import read_repository


class ChooseOperator(ProtocolOperator, HITLOperator):
    """Ask for what the form left empty; a form that names it is taken at its word, and nobody is asked."""

    field: str
    """The form's field."""
    allowed: Sequence[str]
    """The form's fields, all of them."""

    def __init__(self, *, recovery: Recovery, **kwargs: Any) -> None:
        kwargs["params"] = {}  # Airflow gives us the DAG's own
        super().__init__(options=["what there is"], response_timeout=recovery.within, **kwargs)

    def choices(self, site: Site, context: Context) -> tuple[Choice, ...]:
        """List what there is to choose, or nothing when the rest of the form makes the question idle."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Return what the form names (None: the question is idle), else ask."""
        refuse_unknown(context, allowed=self.allowed)
        given = context["params"][self.field]
        if given:
            return given
        with self.site(context) as site:
            choices = self.choices(site, context)
        if not choices:
            return None
        self.options = [f"{choice.value} ({choice.note})" for choice in choices]
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return what was chosen; fails at once when nobody did."""
        # Airflow compared the answer with what was asked; what there is may have changed since: the plan judges that.
        self.options = event.get("chosen_options") or self.options
        try:
            answer = super().execute_complete(context, event)
        except HITLTimeoutError:
            raise AirflowFailException(
                f"nobody chose within {self.response_timeout}: nothing was touched\nHINT: trigger a new run"
            ) from None
        chosen = str(answer["chosen_options"][0]).rpartition(" (")[0]
        self.log.info("%s was chosen by %s", chosen, (answer["responded_by_user"] or {}).get("name"))
        return chosen


class ChooseBackupOperator(ChooseOperator):
    """Ask which of the verified backups that hold the database, unless the form names a moment."""

    field = "backup"

    def choices(self, site: Site, context: Context) -> tuple[Choice, ...]:
        """List them, newest first."""
        params = context["params"]
        if params["moment"]:
            return ()
        database = params["database"] or only_database(site, self.cluster, read_repository(params["repository"]))
        return backup_choices(site, self.cluster, database, read_repository(params["repository"]))
