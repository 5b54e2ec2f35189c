"""A container engine of the tests' own, and the images, without any registry: Debian is bootstrapped."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.airflow_e2e.rest import eventually
from tests.support.source import ROOT

CACHE = ROOT / ".cache" / "compose"
BASE = "localhost/debian:bookworm"
NEEDED = {"dockerd": "docker.io", "docker": "docker.io", "debootstrap": "debootstrap"}


class Engine:
    """A running dockerd that nobody else uses; ``environment`` is what its clients need."""

    def __init__(self, socket: Path) -> None:
        self.environment = os.environ | {"DOCKER_HOST": f"unix://{socket}", "DOCKER_BUILDKIT": "0"}

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run the client; return what it printed."""
        command = ["docker", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def answers(self) -> bool:
        """Whether dockerd takes requests."""
        return subprocess.run(["docker", "ps"], env=self.environment, capture_output=True, check=False).returncode == 0

    def build(self, target: str) -> str:
        """Build one of the Dockerfile's images; return its name."""
        name = f"{target}-under-test:local"
        base = ["--network", "host", "--build-arg", f"BASE_IMAGE={BASE}"]
        self.docker("build", "--quiet", *base, "--target", target, "--tag", name, str(ROOT))
        return name

    def bootstrap(self) -> None:
        """Make the base image, unless an earlier run has."""
        if self.docker("images", "--quiet", BASE):
            return
        archive = CACHE / "debian.tar"
        root = CACHE / "debian"
        shutil.rmtree(root, ignore_errors=True)
        try:
            done = subprocess.run(
                ["debootstrap", "--variant=minbase", "bookworm", str(root)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr
            for package in (root / "var/cache/apt/archives").glob("*.deb"):
                package.unlink()
            with tarfile.open(archive, "w") as tar:
                tar.add(root, arcname=".")
            self.docker("import", str(archive), BASE)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            archive.unlink(missing_ok=True)


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """Start dockerd and end it. It keeps its images below .cache; it sets up neither a bridge nor packet filters."""
    lacks = {package for program, package in NEEDED.items() if shutil.which(program) is None}
    if lacks or os.geteuid() != 0:
        pytest.fail(f"containers need root, and here: {', '.join(sorted(lacks)) or 'root'}", pytrace=False)
    CACHE.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    log = run / "dockerd.log"
    command = [
        "dockerd",
        *("--data-root", str(CACHE / "engine"), "--exec-root", str(run / "exec"), "--pidfile", str(run / "pid")),
        *("--host", f"unix://{run / 'socket'}", "--storage-driver", "overlay2"),
        *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    engine = Engine(run / "socket")
    try:
        eventually(lambda: process.poll() is not None or engine.answers(), "dockerd")
        if process.poll() is not None:
            pytest.fail(f"dockerd does not run on this machine:\n{log.read_text()[-4000:]}", pytrace=False)
        if left := engine.docker("ps", "--all", "--quiet").split():  # by a run that was killed
            engine.docker("rm", "--force", *left)
        engine.docker("system", "prune", "--force", "--volumes")
        yield engine
    finally:
        process.terminate()
        process.wait()
        subprocess.run(
            ["umount", "--lazy", "--quiet", run / "exec" / "netns" / "default", CACHE / "engine"], check=False
        )
        shutil.rmtree(run, ignore_errors=True)
