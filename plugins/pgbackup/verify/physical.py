"""The steps of a verification that a physical backup takes instead of decoding and restoring dumps."""

from __future__ import annotations

from pgbackup.domain.errors import RefusedError, UnavailableError
from pgbackup.domain.findings import Answer
from pgbackup.domain.lsn import Lsn
from pgbackup.domain.manifest import Manifest
from pgbackup.domain.ports import Site
from pgbackup.postgres.throwaway import ThrowAwayServer
from pgbackup.restore.isolated import server_for
from pgbackup.restore.physical import (
    RECOVERY_TIMEOUT,
    marked_target,
    recovery_settings,
    refuse_tablespace_creation,
    unpack_base,
)
from pgbackup.verify.attempt import Attempt


def unpack(site: Site, manifest: Manifest, attempt: Attempt) -> Answer:
    """Unpack the base and compare each of its files with the backup_manifest (pg_verifybackup)."""
    server = server_for(site, manifest, attempt.server)
    unpack_base(site.runner, server, attempt.files)
    return True, f"start {manifest.start_lsn}, consistent from {manifest.stop_lsn}", ""


def replay(site: Site, manifest: Manifest, server: ThrowAwayServer) -> Answer:
    """Replay to the marked point and promote; without one, to where the backup is consistent."""
    target = marked_target(manifest)
    end = target or Lsn.parse(manifest.stop_lsn or "")
    refuse_tablespace_creation(site.runner, server, manifest)
    server.adopt(recovery_settings(site.runner, server, manifest, end))
    try:
        with server.running(timeout=RECOVERY_TIMEOUT):
            pass
    except UnavailableError as error:
        raise RefusedError(
            f"recovery does not reach {end}", detail=error.detail, hint="the server's last lines say why"
        ) from None
    return (
        True,
        f"promoted at {end}" + ("" if target else ", the end of the backup: no snapshot has a marked point"),
        "",
    )
