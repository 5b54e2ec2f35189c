"""What a side server's dump leaves out fits into a command line, however many tables there are."""

from __future__ import annotations

import subprocess

from pgbackup.postgres.describe import TableSource
from pgbackup.recover.side import _patterns

WANTED = frozenset({("public", "wanted")})


def tables(count: int) -> tuple[TableSource, ...]:
    names = [("public", "wanted"), ("other", "one"), *(("public", f'table "{number:05}"') for number in range(count))]
    return tuple(TableSource(schema, name, "r", False, (), "", 0) for schema, name in names)


def test_all_but_the_wanted_table_are_left_out() -> None:
    assert _patterns(tables(1), WANTED) == ('"other".*', '"public"."table ""00000"""')


def test_any_number_of_tables_fits_into_a_command_line() -> None:
    for count in (10_000, 100_000):
        patterns = _patterns(tables(count), WANTED)
        assert len(patterns) in {count + 1, 0}, "all of them, or none: rows too many are harmless, too few are not"
        subprocess.run(["true", *(f"--exclude-table-data={one}" for one in patterns)], check=True)
