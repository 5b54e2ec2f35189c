"""A real S3 server (SeaweedFS) on the loopback: one process is one region."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import boto3

from pgbackup.domain.settings import S3
from pgbackup.store import S3Store
from pgbackup.store.s3 import client_config

BUCKET = "backups"
ACCESS, SECRET = "backupkey", "backupsecret"
NARROW = ("narrowkey", "narrowsecret")
"""Keys that reach one prefix, ``narrow``, and nothing else."""
_ADMIN, _ADMIN_SECRET = "adminkey", "adminsecret"
_PORTS = 6
_IDENTITIES = {
    "identities": [
        {
            "name": "admin",
            "credentials": [{"accessKey": _ADMIN, "secretKey": _ADMIN_SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "backup",
            "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
            "actions": [f"{right}:{BUCKET}" for right in ("Read", "Write", "List", "Tagging")],
        },
        {
            "name": "narrow",
            "credentials": [{"accessKey": NARROW[0], "secretKey": NARROW[1]}],
            "actions": [f"{right}:{BUCKET}/narrow/*" for right in ("Read", "Write", "List", "Tagging")],
        },
    ],
    "kms": {"default_provider": "local", "providers": {"local": {"type": "local", "enableOnDemandCreate": True}}},
}


class Region:
    """A server with a bucket that the key ``ACCESS`` may use."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="/tmp/s3-"))
        self.port = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None
        (self._folder / "s3.json").write_text(json.dumps(_IDENTITIES))
        try:
            self.start()
            self.make_bucket(BUCKET)
            _until_it_writes(self.admin())
        except BaseException:
            self.remove()
            raise

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port + 3}"

    def start(self) -> None:
        """Start it; what it held is there again."""
        ports = {"master": 0, "volume": 1, "filer": 2, "s3": 3, "admin": 4, "webdav": 5}
        flags = [f"-{name}.port={self.port + offset}" for name, offset in ports.items()]
        (self._folder / "log").mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "weed"),
                f"-logdir={self._folder / 'log'}",
                "mini",
                f"-dir={self._folder}",
                *("-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *flags,
                *("-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                f"-s3.config={self._folder / 's3.json'}",
                *("-s3.autoCreateBucket=false", "-master.telemetry=false", "-master.volumeSizeLimitMB=256"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            env={**os.environ, "GOMEMLIMIT": "256MiB", "GOGC": "50", "HOME": str(self._folder)},
        )

    def stop(self) -> None:
        """Kill it: a region goes without saying so."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Leave nothing."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        for path in Path(tempfile.gettempdir()).glob("seaweedfs-*.sock"):
            if path.stem.rpartition("-")[2] in {str(self.port + offset) for offset in range(_PORTS)}:
                path.unlink(missing_ok=True)

    def admin(self) -> Any:
        """Return a client that may do everything."""
        return make_client(self.endpoint, (_ADMIN, _ADMIN_SECRET), S3(bucket=BUCKET))

    def make_bucket(self, name: str, **options: Any) -> None:
        """Make a bucket, as soon as the server answers."""
        client, deadline = self.admin(), time.monotonic() + 60
        while True:
            try:
                client.create_bucket(Bucket=name, **options)
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def store(
        self,
        prefix: str = "",
        *,
        name: str = "region",
        endpoint: str | None = None,
        keys: tuple[str, str] = (ACCESS, SECRET),
        **options: Any,
    ) -> S3Store:
        """Return a repository in it, or behind another endpoint."""
        settings = S3(**{"bucket": BUCKET, "prefix": prefix, **options})
        connect = partial(make_client, endpoint or self.endpoint, keys, settings)
        return S3Store(settings, connect, name=name, clock=lambda: datetime.now(UTC))


def make_client(endpoint: str, keys: tuple[str, str], settings: S3) -> Any:
    """Return a client with the product's own configuration."""
    return _session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        config=client_config(settings),
    )


@cache
def _session() -> Any:
    """What boto3 knows of S3, read once: half of what a client costs."""
    return boto3.session.Session(region_name="us-east-1")


def _free_ports() -> int:
    """Return the first of some free ports in a row; gRPC takes those 10000 above."""
    for first in range(20000 + os.getpid() % 1000 * 20, 54000, 10):
        if all(_is_free(first + offset + grpc) for offset in range(_PORTS) for grpc in (0, 10000)):
            return first
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _until_it_writes(client: Any) -> None:
    """It answers before it can write."""
    deadline = time.monotonic() + 60
    while True:
        try:
            client.put_object(Bucket=BUCKET, Key="probe", Body=b"x")
            client.delete_object(Bucket=BUCKET, Key="probe")
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
