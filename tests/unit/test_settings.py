"""protocol.yaml: what is wrong is refused, with the place and the nearest thing that would be right."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbackup.domain.errors import ConfigurationError
from pgbackup.domain.settings import (
    Cluster,
    Connection,
    Contact,
    Encryption,
    Fingerprints,
    FullBackup,
    Objectives,
    Paths,
    Query,
    Recovery,
    Section,
    VerifyBackup,
    parse_duration,
    parse_settings,
)

GOOD: dict[str, Any] = {
    "version": 1,
    "paths": {"backups": "/backups"},
    "catalog": {"service": "ops"},
    "encryption": {"recipients": ["/keys/a.asc"]},
    "objectives": {"rto": "4h"},
    "contacts": [{"role": "DBA", "name": "A", "reach": "1"}],
    "clusters": {
        "streamflix": {
            "connection": {"service": "streamflix"},
            "full_backup": {"jobs": 2},
            "verify_backup": {"queries": [{"database": "d", "sql": "SELECT 1", "within": "5s"}]},
            "recovery": {"within": "1h"},
            "fingerprints": {"jobs": 2},
        }
    },
}
SECTIONS: dict[str, type[Section]] = {
    "paths": Paths,
    "catalog": Connection,
    "encryption": Encryption,
    "objectives": Objectives,
    "contacts.0": Contact,
    "clusters.streamflix": Cluster,
    "clusters.streamflix.connection": Connection,
    "clusters.streamflix.full_backup": FullBackup,
    "clusters.streamflix.verify_backup": VerifyBackup,
    "clusters.streamflix.verify_backup.queries.0": Query,
    "clusters.streamflix.recovery": Recovery,
    "clusters.streamflix.fingerprints": Fingerprints,
}


def changed(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place: Any = document
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    place[int(last) if isinstance(place, list) else last] = value
    return document


def refusal(document: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(document, source="protocol.yaml")
    return caught.value


def test_the_good_one_is_good() -> None:
    assert parse_settings(GOOD, source="x").cluster("streamflix").full_backup.jobs == 2


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("version", 2, "version: "),
        ("clusters", {}, "clusters: "),
        ("clusters.Bad", {"connection": {"service": "x"}}, "cluster name 'Bad' must match"),
        ("repositories", {"local": {"folder": "/mnt/x"}}, "not be 'local'"),
        ("repositories", {"../eu": {"folder": "/mnt/x"}}, "repository name '../eu' must match"),
        ("repositories", {"eu": {"foldr": "/mnt/x"}}, "unknown key; did you mean"),
        ("clusters.streamflix.connection", {}, "clusters.streamflix.connection: name an airflow_conn_id, a service"),
        ("clusters.streamflix.full_backup.jobs", 0, "clusters.streamflix.full_backup.jobs: "),
        ("clusters.streamflix.full_backup.compression", "zip", "clusters.streamflix.full_backup.compression: "),
        (
            "clusters.streamflix.full_backup.due",
            "soon",
            "full_backup.due: 'soon' is not a duration",
        ),
        ("clusters.streamflix.full_backup.due", "0s", "clusters.streamflix.full_backup.due: "),
        ("clusters.streamflix.verify_backup.queries.0.sql", 3, "clusters.streamflix.verify_backup.queries.0.sql: "),
        ("encryption.recipients", [], "encryption: encryption is on: name at least one public key"),
        ("contacts.0.reach", None, "contacts.0.reach: "),
        ("objectives.rto", "$(id)", "objectives.rto: '$(id)' is not a duration"),
        ("clusters.streamflix.conection", {}, "clusters.streamflix.conection: unknown key; did you mean 'connection'?"),
        ("contacts.0.phone", "1", "contacts.0.phone: unknown key; valid keys: role, name, reach"),
        (
            "clusters.streamflix.recovery",
            {"approval": False, "four_eyes": True},
            "clusters.streamflix.recovery: approval is off: nobody is asked",
        ),
        ("paths.backup", "/b", "paths.backup: unknown key; did you mean 'backups'?"),
        ("clusters.streamflix.full_backup.job", 1, "full_backup.job: unknown key; did you mean 'jobs'?"),
    ],
)
def test_each_error_names_its_place(path: str, value: object, problem: str) -> None:
    error = refusal(changed(path, value))
    assert "protocol.yaml is not valid" in error.message
    assert problem in str(error.detail)
    assert error.hint


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_file_that_holds_no_settings(document: object) -> None:
    assert refusal(document).message == "protocol.yaml holds no settings"


def test_all_errors_are_told_at_once() -> None:
    document = changed("paths.backup", "/b")
    document["clusters"]["streamflix"]["full_backup"] = {"jobs": 0}
    assert len(str(refusal(document).detail).splitlines()) == 2


@given(place=st.sampled_from(sorted(SECTIONS)), key=st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=20))
def test_an_unknown_key_is_refused_wherever_it_stands(place: str, key: str) -> None:
    document = changed(f"{place}.{key}", "x")
    if key in SECTIONS[place].model_fields:
        return
    assert f"{place}.{key}: unknown key" in str(refusal(document).detail)


@given(
    key=st.sampled_from(["connection", "full_backup", "verify_backup", "fingerprints", "exclude_databases"]),
    position=st.integers(0, 30),
    letter=st.sampled_from("abcdefghijklmnopqrstuvwxyz_"),
)
def test_a_misspelt_key_is_answered_with_the_right_one(key: str, position: int, letter: str) -> None:
    position %= len(key)
    misspelt = key[:position] + letter + key[position + 1 :]
    if misspelt == key:
        return
    error = refusal(changed(f"clusters.streamflix.{misspelt}", {}))
    assert f"clusters.streamflix.{misspelt}: unknown key; did you mean {key!r}?" in str(error.detail)


def test_a_misspelt_cluster_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(GOOD, source="x").cluster("steamflix")
    assert "did you mean 'streamflix'?" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15 min", 900),
        (" 4h ", 14400),
        ("1.5H", 5400),
        ("14 days", 1209600),
        ("1w", 604800),
        ("2 d", 172800),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@given(st.text(max_size=12))
def test_any_other_text_is_no_duration(text: str) -> None:
    try:
        assert isinstance(parse_duration(text), timedelta)
    except ValueError as error:
        assert "is not a duration" in str(error)  # noqa: PT017 - most texts, but not all
