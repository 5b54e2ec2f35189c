"""Amounts and advice as people read them."""

from __future__ import annotations

from datetime import timedelta


def span(time: timedelta) -> str:
    """Print a length of time.

    >>> span(timedelta(seconds=3723.4))
    '1:02:03'
    """
    return str(timedelta(seconds=round(time.total_seconds())))


def megabytes(count: float) -> str:
    """Print a number of bytes.

    >>> megabytes(16_777_216)
    '17 MB'
    """
    return f"{count / 1e6:.0f} MB"


def new_base(cluster: str) -> str:
    """Say how to make a new beginning."""
    return f"then take a new base at once: run the DAG {cluster}_full_backup, or `pgbackup backup full`"
