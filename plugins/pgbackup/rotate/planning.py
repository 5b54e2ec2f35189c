"""The rotation of one cluster in one repository, planned from what is there now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.ports import Site
from pgbackup.domain.retention import Fate, Stored, WalCut, plan_retention
from pgbackup.rotate.contents import Contents, Folder, read_contents


@dataclass(frozen=True)
class RotationPlan:
    """What stays, by which rule, and what goes. ``remains`` are of captures, copies and deletions that did not end."""

    cluster: str
    repository: str
    made_at: datetime
    fates: tuple[Fate, ...]
    remains: tuple[Folder, ...]
    cuts: tuple[WalCut, ...]
    problems: tuple[str, ...]

    @property
    def going(self) -> tuple[Stored, ...]:
        """The backups that no rule keeps, what stands on another before it."""
        return tuple(fate.backup for fate in self.fates if not fate.rules)

    @property
    def bytes(self) -> int:
        """What it frees."""
        backups = sum(one.bytes for one in self.going) + sum(one.bytes for one in self.remains)
        return backups + sum(one.bytes for one in self.cuts)

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "cluster": self.cluster,
            "repository": self.repository,
            "made_at": self.made_at.isoformat(),
            "bytes": self.bytes,
            "backups": [
                {"id": one.backup.id, "bytes": one.backup.bytes, "rules": list(one.rules)} for one in self.fates
            ],
            "remains": [str(one.backup_id) for one in self.remains],
            "wal": [
                {
                    "system_identifier": one.system_identifier,
                    "timeline": one.timeline,
                    "before": one.before,
                    "segments": one.count,
                    "bytes": one.bytes,
                    "kept": one.kept,
                }
                for one in self.cuts
            ],
            "problems": list(self.problems),
        }


def plan(site: Site, cluster: str, repository: str) -> RotationPlan:
    """Plan a rotation; nothing is touched.

    Raises RefusedError when the catalog has not read what the repository holds, UnavailableError when a repository or
    the catalog does not answer.
    """
    return planned(site, cluster, repository)[0]


def planned(site: Site, cluster: str, repository: str) -> tuple[RotationPlan, Contents]:
    """Plan a rotation; return the plan, and the contents that it was made of."""
    if repository not in site.repositories:
        raise ConfigurationError(f"no repository {repository!r}", detail=", ".join(site.repositories))
    policy = site.settings.cluster(cluster).retention
    contents = read_contents(site, cluster, site.repositories[repository])
    retained = plan_retention(contents.backups, [one.stored for one in contents.wal], policy, contents.seen)
    damaged = [fate.backup for fate in retained.fates if fate.rules and fate.backup.damage]
    problems = (*contents.problems, *(f"{one.id} is damaged, and counts for nothing: {one.damage}" for one in damaged))
    rotation = RotationPlan(
        cluster, repository, site.clock(), retained.fates, contents.remains, retained.cuts, problems
    )
    return rotation, contents
