"""A cluster at a moment, beside the present one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import Context
from pydantic import TypeAdapter

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.target import Target, parse_target
from pgbackup.recover import Foresight, Recovered, Request, foresee, plan_text, recover_cluster, report_text
from pgbackup_airflow.operators import ProtocolOperator, refuse_unknown
from pgbackup_airflow.recovery.approval import RECOVER, granted, outcome

FIELDS = ("target", "time", "lsn", "xid", "name", "timeline", "repository", "folder", "port")

_foresights = TypeAdapter(Foresight)
_recovered = TypeAdapter(Recovered)


class PlanPointInTimeOperator(ProtocolOperator):
    """Judge what was asked for and plan it: whatever cannot be is refused here, before anybody is asked."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the plan, and its text."""
        refuse_unknown(context, allowed=FIELDS)
        run: Any = context["dag_run"]
        with self.site(context) as site:
            name = f"{self.cluster}_{run.run_after:%Y%m%d_%H%M%S}"
            default = site.settings.paths.recovered_folder / name
            ahead = foresee(site, self.cluster, read_request(context["params"], default))
        text = plan_text(ahead)
        self.log.info("the plan:\n%s", text)
        return {"plan": _foresights.dump_python(ahead, mode="json"), "text": text}


def read_request(params: Mapping[str, Any], default: Path) -> Request:
    """Read the form, across its fields; raises ConfigurationError unless it names exactly one target."""
    return Request(
        target=_read_target(params),
        into=Path(params["folder"] or default),
        timeline=params["timeline"],
        repository=params["repository"],
        port=params["port"],
    )


def _read_target(params: Mapping[str, Any]) -> Target:
    wanted = {params["target"]} - {"latest"}
    given = {kind: params[kind] for kind in ("time", "lsn", "xid", "name") if params[kind] not in {None, ""}}
    if set(given) != wanted:
        raise ConfigurationError(
            f"the target is {params['target']!r}, and what is filled in is: {', '.join(given) or 'nothing'}",
            hint="fill in the one field of the chosen target, and leave the others empty",
        )
    moment = given.pop("time", None if given else "latest")
    return parse_target(moment, **given)


class RecoverPointInTimeOperator(ProtocolOperator):
    """Carry out what was approved; a try after an interruption goes on in the same folder."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what was recovered."""
        answer = granted(context)
        request = _foresights.validate_python(answer["plan"]).request
        with self.site(context) as site:
            self.log.info("approved %s; recovering into %s", answer["approved"], request.into)
            recovered = recover_cluster(
                site,
                self.cluster,
                request.target,
                into=request.into,
                timeline=request.timeline,
                repository=request.repository,
                port=request.port,
            )
        document: dict[str, Any] = _recovered.dump_python(recovered, mode="json")
        return document


class ReportPointInTimeOperator(ProtocolOperator):
    """Write down what came back, what is lost, how long it took and what to do next; the mail holds the same."""

    def execute(self, context: Context) -> dict[str, str]:
        """Return the report."""
        answer = granted(context)
        recovered = _recovered.validate_python(outcome(context, RECOVER))
        text = report_text(recovered, _foresights.validate_python(answer["plan"]), answer["approved"])
        self.log.info("the report:\n%s", text)
        return {"text": text}
