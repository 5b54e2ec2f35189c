#!/usr/bin/python3 -IS
"""Health check of a container: `healthy COMPONENT` asks the API server how one of Airflow's components is.

`healthy URL` is content with any answer. Not `airflow jobs check`: that loads Airflow for each question.
"""

import json
import sys
import urllib.error
import urllib.request

HEALTH = "http://api-server:8080/api/v2/monitor/health"


def main(what: str) -> int:
    """0 when it is healthy; else 1, having said why."""
    try:
        with urllib.request.urlopen(HEALTH if "://" not in what else what, timeout=5) as answer:
            if "://" in what:
                return 0
            status = json.load(answer)[what]["status"]
    except urllib.error.HTTPError as error:
        status = None if "://" in what else f"status {error.code}"
        return 0 if status is None else print(status) or 1
    except (OSError, ValueError, KeyError) as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    print(status)
    return 0 if status == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
