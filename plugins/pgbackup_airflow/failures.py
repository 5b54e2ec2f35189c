"""The error tree as Airflow understands it: permanent ones fail at once, transient ones are tried again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta

from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowFailException

from pgbackup.domain.errors import BusyError, PermanentError, TransientError

RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception=PermanentError, action=RetryAction.FAIL, reason="trying again would give the same"),
        RetryRule(
            exception=BusyError, action=RetryAction.RETRY, retry_delay=timedelta(minutes=2), reason="somebody is first"
        ),
        RetryRule(
            exception=TransientError, action=RetryAction.RETRY, retry_delay=timedelta(seconds=30), reason="may pass"
        ),
    ]
)


@contextlib.contextmanager
def as_airflow_failures() -> Iterator[None]:
    """Fail a task at once for a permanent error, also where no retry policy is set."""
    try:
        yield
    except PermanentError as error:
        raise AirflowFailException(str(error)) from None
