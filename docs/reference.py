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
_NEW_BASE = "save what is missing from the server's `pg_wal`; then trigger `full_backup`"
_RECEIVER = "`pgbackup wal status`, the receiver's log; start its service"
_ARCHIVER = "the server's log, `pg_stat_archiver`: a full disk, a key, a conflict"
_ACTIONS = {
    names.SERVER: "is it up; can the worker reach it; did its password change? `pgbackup doctor`",
    names.CATALOG: "start its server; if it is lost: a new database, and `pgbackup catalog rebuild`",
    names.ARCHIVE: "is the repository mounted and readable? `pgbackup doctor`",
    names.CONTINUITY: _NEW_BASE,
    names.CONFLICTS: "find the second server that writes there (an old primary, a copy), stop it; then `full_backup`",
    names.SLOT: f"{_NEW_BASE}; a lost slot: drop it, `pgbackup wal create-slot`, start the receiver",
    names.RECEIVER: _RECEIVER,
    names.ARCHIVER: _ARCHIVER,
    names.RETAINED: f"{_RECEIVER}; where it cannot run, drop the slot: that costs continuity, not the server",
    names.LAG: f"{_RECEIVER}; with archive_command: {_ARCHIVER}",
    names.RPO: "the same; with archive_command set `archive_timeout`",
    names.BACKUP: "the last runs of `full_backup` and `verify_backup`; trigger the first one again",
    names.DRILL: "trigger `recovery_drill`, or `pgbackup drill run`",
    names.KEYS: "extend the key and export it again, or replace it; then `pgbackup keys add`",
    names.SIZE: "smaller: is data missing? `pgbackup hold add` an older one; larger: `pgbackup review weekly`",
    names.DURATION: "the task's log: rates of each stage; locks (`pg_locks`), a slow disk, a busy server",
    names.VERDICT: "`pgbackup show ID`; a rejected one: trigger `full_backup`; a damaged copy: copy it back (below)",
    names.SPACE: "`pgbackup plan-rotation` says what stays and why; a larger disk, or a shorter `retention`",
    names.TOLD: "the log of Airflow's DAG processor: it sends the messages",
    names.MAIL: "the mail server, or the connection; what is kept is sent by the next watch",
    names.FINISHED: "the log of `wal_watch`; is it paused, is the scheduler down?",
    names.wal_in("…"): "the log of `copy_wal`; `pgbackup copy` goes on where it stopped",
    names.backups_in("…"): "the `copy` task of the last backup; `pgbackup copy`",
}
"""In short; the log and the mail say it for the case at hand. A finding without one is an error."""
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "min": timedelta(minutes=1), "s": timedelta(seconds=1)}
_SIZES = {"GB": 1 << 30, "MB": 1 << 20, "kB": 1 << 10}


def reference() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_section("", Settings)])


def operations() -> str:
    """Return the operations guide with the table of today's findings."""
    known = [value for name, value in vars(names).items() if name.isupper() and name[0] != "_"]
    named = (*known, names.wal_in("…"), names.backups_in("…"))
    rows = [f"| {name} | {meaning(name)} | {_ACTIONS[name]} |" for name in named]
    table = "\n".join(["| has to hold | when it does not | what to do |", "|---|---|---|", *rows, ""])
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
