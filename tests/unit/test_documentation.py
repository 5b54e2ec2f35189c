"""The documentation is true where a program can tell: links lead somewhere, commands exist, no finding is forgotten."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs.licences import PAGE, pinned
from tests.support.source import ROOT
from typer.main import get_command

from pgbackup.cli.app import app

FOLDERS = ("docs", "include", "bench")
PAGES = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
GUIDE = (ROOT / "docs" / "operations.md").read_text()
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
MAKE = re.compile(r"(?:`|^\$? *)make ([a-z][a-z0-9-]*)", re.MULTILINE)
PGBACKUP = re.compile(r"(?:`|^\$? *|&& )pgbackup ([a-z][^`\n#&]*)", re.MULTILINE)
SAID_BY = {"judged", "_judge", "part", "Wrong", "Finding", "unknown"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets |= {f"postgres-{major}" for major in (15, 16, 17, 18)}
    named = set(MAKE.findall(re.sub(r"(?<=make)\n", " ", page.read_text())))
    assert named <= targets, named - targets
    for line in PGBACKUP.findall(page.read_text()):
        check(line)


def test_every_command_is_explained() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    assert [words for words in commands(get_command(app), "pgbackup") if f"\n{words} " not in text] == []


def commands(command: Any, words: str) -> Iterator[str]:
    """Every command that does something, as it is typed."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words
    for name, one in (inner or {}).items():
        yield from commands(one, f"{words} {name}")


def check(line: str) -> None:
    """What is typed behind ``pgbackup`` is a command, or a group of them, and its options."""
    words = re.findall(r"^[a-z-]+(?: [a-z-]+)*", line)[0].split()
    command: Any = get_command(app)
    while inner := getattr(command, "commands", None):
        if not words:
            return
        assert words[0] in inner, f"pgbackup {line}"
        command = inner[words.pop(0)]
    has = {name for parameter in command.params for name in parameter.opts}
    options = set(re.findall(r"(?<= )--[a-z-]+", line))
    assert options <= has, f"pgbackup {line}: {options - has}"


def test_the_guide_knows_every_finding() -> None:
    listed = set(re.findall(r"^\| ([^|]+?) \|", GUIDE, re.MULTILINE))
    missing = {name for package in ("watch", "audit", "keys", "review") for name in findings(package)} - listed
    assert not missing


def test_the_guide_knows_every_alert_of_prometheus() -> None:
    rules = (ROOT / "include" / "monitoring" / "prometheus-rules.yaml").read_text()
    assert set(re.findall(r"alert: (\w+)", rules)) == set(re.findall(r"`(PgBackup\w+)`", GUIDE))


def test_the_guide_knows_every_dag() -> None:
    assert {path.stem for path in (ROOT / "dags").glob("*.py")} <= set(re.findall(r"`(\w+)`", GUIDE))


def test_every_pinned_package_is_listed_with_its_licence() -> None:
    rows = dict(re.findall(r"^\| ([\w.-]+) \| (\S+) \|", PAGE.read_text(), re.MULTILINE))
    assert {name: version for name, version in rows.items() if name != "package"} == pinned("requirements.txt"), (
        "run `make licences`"
    )


def findings(package: str) -> Iterator[str]:
    """What the findings of a package are called."""
    for path in (ROOT / "plugins" / "pgbackup" / package).glob("*.py"):
        for node in named(ast.parse(path.read_text()), path):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                yield text(node)


def named(tree: ast.Module, path: Path) -> Iterator[ast.expr]:
    """The places where a name stands: constants and functions of names.py, judgements, what a list of checks yields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SAID_BY and node.args:
            yield node.args[0]
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 3:
            yield node.value.elts[1]
        elif path.name == "names.py" and isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr):
            yield node.value
    if path.name == "names.py":
        assigned = (node for node in tree.body if isinstance(node, ast.Assign))
        yield from (node.value for node in assigned if not str(getattr(node.targets[0], "id", "_")).startswith("_"))


def text(node: ast.Constant | ast.JoinedStr) -> str:
    """A string, or an f-string with dots for what it holds."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.replace("`", "")).strip().lower().replace(" ", "-") for heading in headings}
