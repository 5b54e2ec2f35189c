"""The keys' expiry: an expired recipient stops every backup, an expired signing key, too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pgbackup.domain.findings import Answer
from pgbackup.domain.keys import Key, Role

_NEEDED = frozenset({Role.RECIPIENT, Role.ESCROW, Role.SIGNING})


def keys_last(keys: Sequence[Key], now: datetime, warn_before: timedelta) -> Answer:
    """No configured key expires soon, and none that captures need has expired.

    Private and verify keys that expired, and are no recipient's or signer's any more, are kept for what is old: they
    still open it, and what they signed in their time still counts.
    """
    in_use = {key.fingerprint for key in keys if key.role in _NEEDED}
    ending = [
        key
        for key in keys
        if key.expires is not None
        and key.expires - now <= warn_before
        and (key.expires > now or key.fingerprint in in_use)
    ]
    details = (
        f"{key.role} {key.path} {'expires' if key.expires > now else 'expired'} on {key.expires:%Y-%m-%d}"
        for key in ending
        if key.expires
    )
    next_one = min((key.expires for key in keys if key.expires and key.expires > now), default=None)
    lasting = f"the next one expires on {next_one:%Y-%m-%d}" if next_one else "none expires"
    return (
        not ending,
        "; ".join(details) or lasting,
        "extend it (gpg --quick-set-expire) and export it again, or replace it; then `pgbackup keys add`",
    )
