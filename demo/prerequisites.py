"""What the operating system must bring before anything here runs; run by make, before the virtualenv exists.

    python demo/prerequisites.py [--venv]

Standard library only. As root on Debian and Ubuntu it installs what is missing and says so; anyone else gets
the one command to run, and exit status 3. ``--venv`` asks for ensurepip too (uv does without).
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

LIBRARIES = {  # what the PostgreSQL programs and psql are linked against, and Debian's package for it
    "libxml2.so.2": "libxml2",
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
    "libreadline.so.8": "libreadline8",
    "libssl.so.3": "libssl3",
}
PROGRAMS = {"gpg": "gnupg", "zstd": "zstd", "setpriv": "util-linux", "unshare": "util-linux"}
GLIBC = (2, 34)


def unfit() -> str | None:
    """Why this machine can't run the PostgreSQL builds at all, or None."""
    machine, (libc, version) = platform.machine(), platform.libc_ver()
    if sys.platform != "linux" or machine not in {"x86_64", "aarch64"}:
        return f"Linux on x86_64 or aarch64 is needed; this is {sys.platform} on {machine}."
    if libc != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < GLIBC:
        found = f"{libc} {version}".strip() or "another C library"
        return f"glibc 2.34 or newer is needed (Debian 12, Ubuntu 22.04 or later); this is {found}."
    return None


def loads(library: str) -> bool:
    """Whether the dynamic linker finds ``library``."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing(*, venv: bool) -> dict[str, str]:
    """What is missing, each with the Debian package that brings it."""
    lacks = {name: package for name, package in LIBRARIES.items() if not loads(name)}
    lacks |= {name: package for name, package in PROGRAMS.items() if shutil.which(name) is None}
    if not Path("/usr/share/zoneinfo/UTC").exists():
        lacks["/usr/share/zoneinfo"] = "tzdata"
    if venv and importlib.util.find_spec("ensurepip") is None:
        lacks["ensurepip"] = "python3-venv"
    return lacks


def apt_install(packages: list[str]) -> int:
    """Install ``packages``, with fresh package lists where there are none or they are stale."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", "-qq", *packages]
    listed = any(Path("/var/lib/apt/lists").glob("*_Packages*"))
    if listed and subprocess.run(install, env=environment, stdin=subprocess.DEVNULL, check=False).returncode == 0:
        return 0
    subprocess.run(["apt-get", "update", "-qq"], env=environment, stdin=subprocess.DEVNULL, check=False)
    return subprocess.run(install, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def main(arguments: list[str]) -> int:
    """0 when everything is there, 3 when it is not."""
    if reason := unfit():
        print(reason, file=sys.stderr)
        return 3
    venv = "--venv" in arguments
    lacks = missing(venv=venv)
    if not lacks:
        return 0
    packages = sorted(set(lacks.values()))
    print(f"This machine lacks {', '.join(lacks)}.", file=sys.stderr)
    has_apt = shutil.which("apt-get") is not None
    if has_apt and os.geteuid() == 0:
        print(f"Installing with apt-get: {' '.join(packages)}", file=sys.stderr)
        status = apt_install(packages)
        if not (lacks := missing(venv=venv)):
            return 0
        print(f"apt-get ended with status {status}, and {', '.join(lacks)} is still missing.", file=sys.stderr)
    elif has_apt:
        print("Install it, then run make again:", file=sys.stderr)
        print(f"  sudo apt-get install --yes --no-install-recommends {' '.join(packages)}", file=sys.stderr)
    else:
        print(f"Install what Debian calls {' '.join(packages)}, then run make again.", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
