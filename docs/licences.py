"""Write docs/licences.md: what the requirements install, and under which licence, as each package states it."""

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
_HEAD = """\
# Licences

Ours is [Apache-2.0](../LICENSE). Nothing below is part of this repository: `make venv` or pip installs it. What the
engine and its command line need is marked; the rest comes with Airflow. Licences are as the packages state them. This
page is generated: `make licences`.

Called as programs, under their own licences: PostgreSQL (PostgreSQL), GnuPG, tar and coreutils (GPL-3.0-or-later), zstd
(BSD-3-Clause or GPL-2.0), util-linux (GPL-2.0-or-later). What only tests and the demo install is in pyproject.toml
(`dev`, `browser`) and requirements-postgres.txt.

| package | version | licence | for |
|---|---|---|---|
"""


def page() -> str:
    """Return the page; a package that this system does not need is said to be elsewhere's."""
    engine = pinned("requirements-engine.txt")
    rows = (
        f"| {name} | {version} | {_licence(name)} | {'engine' if name in engine else 'Airflow'} |\n"
        for name, version in pinned("requirements.txt").items()
    )
    return _HEAD + "".join(rows)


def pinned(file: str) -> dict[str, str]:
    """Read names and versions out of a lock file."""
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", (ROOT / file).read_text(), re.MULTILINE))


def _licence(name: str) -> str:
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "for other systems only"
    classified = [one.rpartition(" :: ")[2] for one in found.get_all("Classifier", []) if one.startswith("License ::")]
    stated = found.get("License-Expression") or ", ".join(classified) or found.get("License", "")
    return stated.strip().partition("\n")[0].replace("|", "/") or "not stated"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
