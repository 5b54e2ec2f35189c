"""include/config is what the engine reads, and says everything that it reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from docs.reference import OPERATIONS, REFERENCE, operations, reference
from tests.support.source import ROOT

from pgbackup.domain.schema import settings_schema
from pgbackup.domain.settings import Section, Settings, parse_settings

CONFIG = ROOT / "include" / "config"


def test_the_annotated_example_is_valid() -> None:
    document = yaml.safe_load((CONFIG / "protocol.yaml").read_text())
    assert parse_settings(document, source="the example").cluster("streamflix").full_backup.schedule == "0 2 * * *"


def test_the_annotated_example_names_every_key() -> None:
    document = yaml.safe_load((CONFIG / "protocol.yaml").read_text())
    assert not list(missing(Settings, document, Path()))


def test_the_schema_file_is_the_models_own() -> None:
    assert (CONFIG / "protocol.schema.json").read_text() == settings_schema(), "run `make schema`"


def test_the_reference_is_the_models_own_and_says_what_every_key_means() -> None:
    assert REFERENCE.read_text() == reference(), "run `make schema`"
    assert not re.findall(r"^.*\|  \|$", reference(), re.MULTILINE)


def test_the_guide_for_operations_knows_every_finding_of_the_watch() -> None:
    assert OPERATIONS.read_text() == operations(), "run `make schema`"


def missing(section: type[Section], document: dict[str, Any], place: Path) -> list[str]:
    """The keys of a section, and of those below it, that a document does not show."""
    fields = {field.alias or name: field for name, field in section.model_fields.items()}
    lacking = [str(place / name) for name in fields if name not in document]
    for name, value in document.items():
        for model in models(fields[name].annotation):
            for inner in below(value):
                lacking += missing(model, inner, place / name)
    return lacking


def models(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in models(argument)]


def below(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [item for item in value if isinstance(item, dict)]
    if isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
        named = not {"connection", "folder", "s3"}.isdisjoint(next(iter(value.values())))
        # Each shows what the others don't.
        together = {key: inner for item in value.values() for key, inner in item.items()}
        return [together] if named else [value]
    return [value] if isinstance(value, dict) else []
