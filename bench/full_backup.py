"""The whole engine against the protocol's own ``pg_dump -F c -f``: interleaved rounds, medians, ratios.

    python -m bench.full_backup [--scale 10] [--rounds 5]

Writes its table into bench/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg

from bench.stage import BIN, Stage, machine, pgbackup, stage, write_table

OURS = {
    "capture, no fingerprints, no GPG": (0.22, {"encrypted": False, "fingerprints": {"enabled": False}}),
    "capture, GPG, no fingerprints": (0.25, {"encrypted": True, "fingerprints": {"enabled": False}}),
    "capture, GPG and fingerprints": (0.45, {"encrypted": True, "fingerprints": {"enabled": True}}),
}
VERIFY = "verification: fetch, decrypt, restore, every finding"
VERIFY_GOAL = 1.2


def protocols_command(stage: Stage) -> Callable[[], float]:
    """The protocol's backup.sh, to the letter."""
    target = stage.folder / "protocol.dump"
    keywords = stage.superuser.keywords
    argv = [
        str(BIN / "pg_dump"),
        "-h",
        keywords["host"],
        "-p",
        keywords["port"],
        "-U",
        keywords["user"],
        "-d",
        "streamflix",
        "-F",
        "c",
        "-f",
        str(target),
    ]

    def run() -> float:
        target.unlink(missing_ok=True)
        start = time.monotonic()
        subprocess.run(argv, check=True)
        return time.monotonic() - start

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    peak: dict[str, int] = {}
    with stage(options.scale) as prepared:
        with psycopg.connect(**prepared.superuser.keywords) as connection:
            size = connection.execute("SELECT pg_database_size('streamflix')").fetchone()[0]
        protocol = protocols_command(prepared)
        configs = {name: prepared.configure(**cluster) for name, (_, cluster) in OURS.items()}
        for number in range(options.rounds + 1):  # the first round warms the caches and does not count
            taken = {"the protocol's pg_dump -F c -f": protocol()}
            sizes["the protocol's pg_dump -F c -f"] = (prepared.folder / "protocol.dump").stat().st_size
            for name, config in configs.items():
                taken[name], peak[name], document = pgbackup(config, "backup", "full", "--dump-only")
                [document] = document
                sizes[name] = document["bytes"]
            taken[VERIFY], peak[VERIFY], verdict = pgbackup(config, "verify", document["id"])
            if verdict["verdict"] != "verified":
                raise SystemExit(f"not verified: {verdict['reason']}")
            print(f"round {number}: " + ", ".join(f"{name} {value:.1f} s" for name, value in taken.items()), flush=True)
            subprocess.run(["rm", "-rf", str(prepared.folder / "backups" / "full")], check=True)
            if number:
                for name, value in taken.items():
                    seconds.setdefault(name, []).append(value)
    write_table("full_backup", report(size, options.rounds, seconds, sizes, peak))
    for finding in sorted(verdict["findings"], key=lambda finding: finding["seconds"], reverse=True)[:6]:
        print(f"{finding['seconds']:7.1f} s  {finding['name']}")


def report(size: int, rounds: int, seconds: dict[str, list[float]], sizes: dict[str, int], peak: dict[str, int]) -> str:
    """The table: medians, the paired ratio to the protocol's command, the goal, size and memory."""
    base = next(iter(seconds.values()))
    goals = {name: goal for name, (goal, _) in OURS.items()} | {VERIFY: VERIFY_GOAL}
    conditions = (
        f"Database of {size / 1e9:.2f} GB (the sample), {rounds} interleaved rounds, {machine()}, "
        f"{datetime.now(UTC):%Y-%m-%d}. Seconds are medians (least to most); a ratio is the median of the rounds' own."
    )
    lines = [
        conditions,
        "",
        "| | seconds | ratio | goal | stored | worker's memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in seconds.items():
        ratio = statistics.median(value / one for value, one in zip(values, base, strict=True))
        spread = f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        goal = f"≤ {goals[name]}" if name in goals else ""
        stored = f"{sizes[name] / 1e6:.0f} MB" if name in sizes else ""
        memory = f"{peak[name] / 1e6:.0f} MB" if name in peak else ""
        lines.append(f"| {name} | {spread} | {ratio:.2f} | {goal} | {stored} | {memory} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
