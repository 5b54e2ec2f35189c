"""A dump's table of contents: what is in it, what depends on what, and the SQL of chosen entries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pgbackup.domain.errors import RefusedError
from pgbackup.domain.model import Command
from pgbackup.domain.ports import Runner
from pgbackup.postgres.programs import Programs

_ENTRY = re.compile(r"(\d+); \d+ \d+ (.*)")
_DEPENDS = ";\tdepends on:"
# What belongs to one table. Views, functions and other tables depend on it as well, and are none of it.
_PARTS = re.compile(
    r"(TABLE DATA|TABLE ATTACH|SEQUENCE|SEQUENCE SET|SEQUENCE OWNED BY|DEFAULT|CONSTRAINT|CHECK CONSTRAINT|INDEX|"
    r"INDEX ATTACH|TRIGGER|ROW SECURITY|ACL|COMMENT|SECURITY LABEL|STATISTICS|PUBLICATION TABLE) "
)
# These may depend on other tables, too: they belong to the one that their tag begins with.
_NAMED_AFTER = ("FK CONSTRAINT", "POLICY", "RULE")


@dataclass(frozen=True)
class Entry:
    """One entry: ``text`` is kind, schema (``-``: none), name and owner, with a blank between each."""

    id: int
    text: str
    depends: frozenset[int]
    line: bytes


@dataclass(frozen=True)
class Archive:
    """A dump and its entries, in the order in which they are restored."""

    programs: Programs
    runner: Runner
    path: Path
    entries: tuple[Entry, ...]

    def text(self, chosen: Iterable[Entry], *options: str, ok: frozenset[int] = frozenset({0})) -> bytes:
        """Return the SQL of some entries, in the encoding that it sets itself."""
        output, _ = self.runner.run(self.script(chosen, *options), ok=ok)
        return output

    def script(self, chosen: Iterable[Entry], *options: str) -> Command:
        """Write the SQL of some entries to standard output."""
        use = self.choose(chosen)
        return self.programs.command("pg_restore", f"--use-list={use}", "--file=-", *options, str(self.path))

    def choose(self, chosen: Iterable[Entry]) -> Path:
        """Write a list of entries for pg_restore, beside the dump."""
        use = self.path.parent / "chosen.list"
        use.write_bytes(b"".join(entry.line + b"\n" for entry in chosen))
        return use

    def owners(self, roles: Iterable[str]) -> frozenset[str]:
        """Return those of some roles that own something in the dump."""
        longest = sorted(roles, key=len, reverse=True)
        found = (
            next((role for role in longest if entry.text.endswith(f" {_flat(role)}")), "") for entry in self.entries
        )
        return frozenset(found) - {""}

    def table(self, schema: str, name: str, roles: Iterable[str]) -> Entry:
        """Return a table's own entry; raises RefusedError when it is not there, or cannot be told from another."""
        wanted = table_texts(schema, name, roles)
        found = [entry for entry in self.entries if entry.text in wanted]
        if len(found) != 1:
            raise RefusedError(
                f"the dump's table of contents names {len(found)} tables {schema}.{name}",
                hint="recover the database beside, and take the table from it",
            )
        return found[0]

    def tree(self, table: Entry) -> tuple[Entry, ...]:
        """Return a table and, when it is partitioned, its partitions."""
        tables = {entry.id: entry for entry in self.entries if entry.text.startswith("TABLE ")}
        tree = [table]
        for parent in tree:  # grows on the way
            for entry in self.entries:
                if entry.text.startswith("TABLE ATTACH ") and parent.id in entry.depends:
                    named = "TABLE " + entry.text.removeprefix("TABLE ATTACH ")
                    tree += [
                        tables[one] for one in entry.depends if tables[one].text == named and tables[one] not in tree
                    ]
        return tuple(tree)

    def parts(self, tree: Iterable[Entry]) -> tuple[Entry, ...]:
        """Return all entries that make a table (with its partitions): rows, sequences, indexes, rights and so on."""
        chosen = {entry.id for entry in tree}
        names = {_name(entry.text) for entry in tree}
        for entry in self.entries:  # each stands behind what it depends on
            if not entry.depends & chosen:
                continue
            kind = next((kind for kind in _NAMED_AFTER if entry.text.startswith(f"{kind} ")), None)
            named_after = any(entry.text.startswith(f"{kind} {name} ") for name in names)
            if _PARTS.match(entry.text) or named_after:
                chosen.add(entry.id)
        return tuple(entry for entry in self.entries if entry.id in chosen)


def read_archive(runner: Runner, programs: Programs, path: Path, encoding: str) -> Archive:
    """List a dump; ``encoding`` is its database's."""
    output, _ = runner.run(programs.command("pg_restore", "--list", "--create", "--verbose", str(path)))
    return Archive(programs, runner, path, tuple(_entries(output, "utf-8" if encoding == "UTF8" else "latin-1")))


def table_texts(schema: str, name: str, roles: Iterable[str]) -> set[str]:
    """Return how a table's entry reads, whichever of some roles owns it."""
    return {f"TABLE {_flat(schema)} {_flat(name)} {_flat(role)}" for role in roles}


def _entries(output: bytes, encoding: str) -> Iterator[Entry]:
    current: tuple[bytes, re.Match[str]] | None = None
    depends: frozenset[int] = frozenset()
    for line in (*output.split(b"\n"), b"1; 0 0 END"):
        text = line.decode(encoding, errors="surrogateescape")
        if text.startswith(_DEPENDS):
            depends = frozenset(int(number) for number in text.removeprefix(_DEPENDS).split())
        match = _ENTRY.fullmatch(text)
        if match:
            if current:
                yield Entry(int(current[1][1]), current[1][2], depends, current[0])
            current, depends = (line, match), frozenset()


def _name(text: str) -> str:
    """Return schema and name of a table's entry."""
    return text.removeprefix("TABLE ").rpartition(" ")[0]


def _flat(name: str) -> str:
    """Write a name as a table of contents does: on one line."""
    return re.sub(r"[\r\n]", " ", name)
