"""The recovery sheet: what every repository holds so that it can be used when nothing else is left."""

from pgbackup.sheet.editions import Written, editions, read_sheet, write_sheet, write_sheets

__all__ = ["Written", "editions", "read_sheet", "write_sheet", "write_sheets"]
