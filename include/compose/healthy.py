#!/usr/bin/python3 -IS
"""Health check of a container: what the API server says of one of Airflow's components, or whether a URL answers.

    healthy COMPONENT | URL

Not `airflow jobs check`: that loads all of Airflow for each question.
"""

import contextlib
import json
import sys
import urllib.error
import urllib.request

HEALTH = "http://api-server:8080/api/v2/monitor/health"


def component(name: str) -> str:
    """Its state in one word; "healthy" is the good one."""
    with urllib.request.urlopen(HEALTH, timeout=5) as answer:
        return str(json.load(answer)[name]["status"])


def server(url: str) -> str:
    """The word healthy when it answers, even with a refusal."""
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(url, timeout=5).close()
    return "healthy"


def main(what: str) -> int:
    """0 when it is healthy; else 1, having said why."""
    try:
        state = server(what) if "://" in what else component(what)
    except (OSError, ValueError, KeyError) as error:
        state = f"{type(error).__name__}: {error}"
    print(state)
    return 0 if state == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
