"""Write what documents take from the code: every key of protocol.yaml, every finding of the watch.

`make schema` runs it: docs/configuration.md, and the table in docs/operations.md.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pgbackup.domain.settings import Section, Settings
from pgbackup.watch import meaning, names

REFERENCE, OPERATIONS = (Path(__file__).with_name(name) for name in ("configuration.md", "operations.md"))
_TABLE = re.compile(r"(?<=<!-- findings -->\n).*?(?=<!-- /findings -->)", re.DOTALL)
_HEAD = """# Configuration

Every key of `protocol.yaml`, which `PGBACKUP_CONFIG` names. [protocol.yaml](../include/config/protocol.yaml) shows them
all in place, [protocol.schema.json](../include/config/protocol.schema.json) is for editors. Unknown keys are errors.
`pgbackup doctor` reads the file and tries what it names. Durations: a number and one of s, min, h, d, w; sizes: a
number and one of kB, MB, GB, TB. This page is generated: `make schema`.
"""
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "min": timedelta(minutes=1), "s": timedelta(seconds=1)}
_SIZES = {"GB": 1 << 30, "MB": 1 << 20, "kB": 1 << 10}


def reference() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_section("", Settings)])


def operations() -> str:
    """Return the operations guide with the table of today's findings."""
    known = [value for name, value in vars(names).items() if name.isupper() and name[0] != "_"]
    rows = [f"| {name} | {meaning(name)} |" for name in (*known, names.wal_in("…"), names.backups_in("…"))]
    table = "\n".join(["| has to hold | when it does not |", "|---|---|", *rows, ""])
    return _TABLE.sub(lambda _: table, OPERATIONS.read_text(encoding="utf-8"))


def _section(path: str, section: type[Section]) -> Iterator[str]:
    """Yield a section's table, then those of the sections in it."""
    if path:
        yield f"## `{path}`\n\n{_line(section.__doc__)}\n"
    yield "| key | value | default | meaning |\n|---|---|---|---|"
    inner: list[tuple[str, type[Section]]] = []
    for name, field in section.model_fields.items():
        key = field.alias or name
        value, nested = _value(field.annotation)
        meaning = field.description or (nested[0][1].__doc__ if nested else "")
        yield f"| `{key}` | {value} | {_default(field)} | {_line(meaning)} |"
        inner += [(".".join(filter(None, (path, key + suffix))), model) for suffix, model in nested]
    yield ""
    for place, model in inner:
        yield from _section(place, model)


def _value(annotation: Any) -> tuple[str, list[tuple[str, type[Section]]]]:
    """Say what may be written, and which sections are in it: the suffix of their path, the model."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _value(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments), []
    if origin in {Union, types.UnionType}:
        given = [_value(one) for one in arguments if one is not type(None)]
        return " or ".join(dict.fromkeys(text for text, _ in given)), [one for _, nested in given for one in nested]
    if origin in {dict, tuple}:
        one, many, suffix = (
            (arguments[1], "{}, by name", ".NAME") if origin is dict else (arguments[0], "list of {}", ".N")
        )
        text, nested = _value(one)
        return many.format(text), [(suffix + rest, model) for rest, model in nested]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section", [("", annotation)]
    names = {timedelta: "duration", Path: "path", str: "text", int: "number", float: "number", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation))), []


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return ""
    value = field.default
    if value is PydanticUndefined:
        return "**required**"
    if value is None or value in ((), "") or isinstance(value, Section):
        return ""
    if isinstance(value, timedelta):
        return f"`{_in_units(value, _UNITS)}`"
    if "size" in str(field.metadata):
        return f"`{_in_units(value, _SIZES)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _in_units(value: Any, units: Mapping[str, Any]) -> str:
    name, one = next((name, one) for name, one in units.items() if not value % one)
    return f"{value // one}{name}"


def _line(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("``", "`").replace("|", "\\|").strip()


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
    OPERATIONS.write_text(operations(), encoding="utf-8")
