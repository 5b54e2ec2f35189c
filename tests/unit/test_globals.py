"""The globals of a cluster, split and made harmless: nothing of them touches a path outside an isolated server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbackup.postgres.dump import globals_for_isolation, same_globals, statements, tablespaces_in_place

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """As pg_dumpall writes it."""
    doubled = text.replace("'", "''")
    return f" E'{doubled}'".replace("\\", "\\\\") if "\\" in text else f"'{doubled}'"


@given(st.lists(st.tuples(names, names), max_size=4))
def test_statements_are_split_whatever_their_names_and_texts_hold(roles: list[tuple[str, str]]) -> None:
    parts = []
    for name, text in roles:
        parts += [f"CREATE ROLE {quoted(name)};", f"COMMENT ON ROLE {quoted(name)} IS {literal(text)};"]
    dump = "--\n-- PostgreSQL; 'database' \"cluster\" dump\n--\n\n\\restrict abc\n\n" + "\n".join(parts)
    assert list(statements(dump + "\n\\unrestrict abc\n\n")) == parts


@given(names, names, names)
def test_no_tablespace_passes(name: str, owner: str, path: str) -> None:
    harmless = f"CREATE ROLE {quoted(owner)};"
    dangerous = [
        f"CREATE TABLESPACE {quoted(name)} OWNER {quoted(owner)} LOCATION {literal(path)};",
        f"ALTER TABLESPACE {quoted(name)} SET (random_page_cost = 1);",
        f"GRANT ALL ON TABLESPACE {quoted(name)} TO {quoted(owner)};",
        f"REVOKE ALL ON TABLESPACE {quoted(name)} FROM PUBLIC;",
        f"COMMENT ON TABLESPACE {quoted(name)} IS {literal(path)};",
    ]
    kept = globals_for_isolation("\n".join([*dangerous, harmless, *dangerous]), "postgres")
    assert list(statements(kept)) == [harmless]


@given(names, names)
def test_a_role_may_be_named_like_a_statement(name: str, text: str) -> None:
    strange = f"CREATE TABLESPACE {name}"
    role = f"CREATE ROLE {quoted(strange)};"
    comment = f"COMMENT ON ROLE {quoted(strange)} IS {literal('CREATE TABLESPACE x; ' + text)};"
    kept = globals_for_isolation(f"{role}\n{comment}\n", "postgres")
    assert list(statements(kept)) == [role, comment]
    assert list(tablespaces_in_place(kept)) == []


@given(names)
def test_the_superuser_is_not_made_twice(name: str) -> None:
    text = f"CREATE ROLE {quoted(name)};\nALTER ROLE {quoted(name)} WITH SUPERUSER;\nCREATE ROLE other_one;\n"
    kept = list(statements(globals_for_isolation(text, name)))
    assert kept == [f"ALTER ROLE {quoted(name)} WITH SUPERUSER;", "CREATE ROLE other_one;"]


@given(names, names)
def test_tablespaces_are_made_again_without_their_paths(name: str, path: str) -> None:
    text = f"CREATE TABLESPACE {quoted(name)} OWNER postgres LOCATION {literal(path)};\n"
    assert list(tablespaces_in_place(text)) == [f"CREATE TABLESPACE {quoted(name)} LOCATION ''"]


@pytest.mark.parametrize(
    ("change", "same"),
    [("-- Started on Sunday\n", True), ("\\restrict other\n", True), ("CREATE ROLE b;\n", False), ("", True)],
)
def test_globals_are_compared_without_their_comments(change: str, same: bool) -> None:
    text = "-- Started on Monday\n\\restrict one\nCREATE ROLE a;\n"
    assert same_globals(text.encode(), (change + text).encode()) is same
