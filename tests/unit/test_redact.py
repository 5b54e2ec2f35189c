"""No secret survives the redactor, wherever it stands."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pgbackup.stream.redact import redact

secrets = st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=3, max_size=30)
words = st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Z"], exclude_characters="'\"\\@*"), min_size=3)


@given(st.text(), st.lists(secrets, max_size=4), st.data())
def test_a_given_secret_never_survives(text: str, given_secrets: list[str], data: st.DataObject) -> None:
    for secret in given_secrets:
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + secret + text[place:]
    redacted = redact(text, given_secrets)
    assert not [secret for secret in given_secrets if secret in redacted]


@pytest.mark.parametrize(
    "form",
    [
        "password={}",
        "password='{}'",
        'PASSWORD="{}"',
        "PGPASSWORD={} x",
        "aws_secret_access_key={}",
        "passphrase: {}",
        "token = {}",
        "ALTER ROLE app WITH LOGIN PASSWORD '{}';",
        "CREATE USER a ENCRYPTED PASSWORD '{}' VALID UNTIL 'infinity'",
        "postgresql://app:{}@db/x",
        "https://user:{}@host/path?x=1",
    ],
)
@given(word=words)
def test_a_secret_in_a_usual_form_never_survives(form: str, word: str) -> None:
    assume(word not in form)
    assert word not in redact(form.format(word))


def test_passwords_with_the_characters_of_the_form_do_not_survive() -> None:
    for text in ("postgresql://app:p@ss@w@db/x", r"password='it\'s secret'", "PASSWORD 'it''s secret'"):
        assert "ss" not in redact(text).replace("***", "").replace("password", "").replace("PASSWORD", "")
        assert "secret" not in redact(text)


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize("text", ["", 'relation "t" does not exist', "host=a port=1 user=b", "postgresql://db/x"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text
