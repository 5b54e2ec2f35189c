"""An adopted dump, restored: there is no source to compare with, so it has to be whole and sound by itself."""

from __future__ import annotations

from collections.abc import Iterator

from pgbackup.domain import findings as named
from pgbackup.domain.findings import Answer, some
from pgbackup.domain.manifest import WITHOUT_GLOBALS, Manifest, Table
from pgbackup.domain.model import ConnectionParameters, Finding
from pgbackup.domain.settings import Cluster, Query
from pgbackup.postgres import describe
from pgbackup.restore.compare import Comparison, Unreadable, asked

_LISTED = 200
"""Tables whose row counts a finding lists."""


def comparison(
    manifest: Manifest,
    settings: Cluster,
    parameters: ConnectionParameters,
    violated: frozenset[tuple[str, str]] = frozenset(),
) -> Comparison:
    """Hold a restored server against a manifest, as far as that knows what to expect."""
    kind = AdoptedComparison if manifest.adopted else Comparison
    return kind(manifest, settings, parameters, violated)


class AdoptedComparison(Comparison):
    """What can be asked of a restored dump alone; no finding claims that it equals anything."""

    def of_a_dump(self) -> Iterator[Finding]:
        """Ask what the dump itself promises."""
        yield from asked(
            {
                named.TABLES: self.tables,
                named.UNCOMPARED: self.contents,
                named.FOREIGN_KEYS: self.foreign_keys,
                named.EXTENSIONS: self.extensions,
            }
        )

    def of_a_server(self) -> Iterator[Finding]:
        """Ask for the roles that the dump names, and the application."""
        yield from asked({named.ROLES: self.roles})
        yield from self.of_the_application()

    def tables(self) -> Answer:
        """Every table of the dump is there; an extension may have brought others."""
        wrong: list[str] = []
        count = 0
        for entry, connection in self._databases():
            restored = {(table.schema_name, table.name) for table in describe.tables(connection)}
            missing = [one for one in entry.tables if (one.schema_name, one.name) not in restored]
            wrong += [f"{entry.name}: {one.schema_name}.{one.name} is missing" for one in missing]
            count += len(entry.tables)
        return not wrong, some(wrong) if wrong else f"{count} tables", "adopt another dump of these days"

    def contents(self) -> Answer:
        """Read every row and every large object; the detail records how many there are."""
        wrong: list[str] = []
        counts: dict[str, int] = {}
        objects = 0
        for entry, connection in self._databases():
            objects += describe.large_objects(connection).rows
            for (schema, name), found in self._contents_of(entry).items():
                if isinstance(found, Unreadable):
                    wrong.append(f"{entry.name}: {schema}.{name} cannot be read: {found.reason}")
                else:
                    counts[f"{schema}.{name}"] = found.rows
        listed = some((f"{name} {rows}" for name, rows in sorted(counts.items())), most=_LISTED)
        detail = f"{len(counts)} tables, {sum(counts.values())} rows, {objects} large objects: {listed}"
        return not wrong, some(wrong) if wrong else detail, "adopt another dump of these days"

    def foreign_keys(self) -> Answer:
        """Each was checked by the server that made it; one that the dump's own rows violate was in the source, too."""
        keys = [key for _, connection in self._databases() for key in describe.foreign_keys(connection)]
        open_keys = [f"{key.table}.{key.name}" for key in keys if not key.validated]
        detail = f"{len(keys)} foreign keys"
        if open_keys:
            detail += f"; NOT VALID: {some(open_keys)}"
        if self._violated:
            detail += (
                f"; violated by the dump's own rows: {some(f'{one}: {name}' for one, name in sorted(self._violated))}"
            )
        return True, detail, ""

    def application(self) -> Answer:
        """The role's right to connect is known only where the globals are."""
        if self._knows_roles:
            return super().application()
        return True, "not asked: the dump came without its globals", ""

    @property
    def _knows_roles(self) -> bool:
        return WITHOUT_GLOBALS not in self._manifest.not_included

    @property
    def _questions(self) -> tuple[Query, ...]:
        held = {entry.name for entry in self._manifest.databases}  # other databases did not come with it
        return tuple(query for query in super()._questions if query.database in held)

    @property
    def _asking_role(self) -> str | None:
        return super()._asking_role if self._knows_roles else None

    def _is_read(self, table: Table) -> bool:
        return table.kind == "r"
