"""One backup to three regions, against `aws s3 cp`; and the listing of a large repository.

python -m bench.copies [--scale 4] [--rounds 3] [--objects 100000] [--aws aws]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tests.support.s3 import ACCESS, BUCKET, SECRET, Region

from bench.stage import ROOT, Stage, machine, pgbackup, stage, write_table
from bench.table import Rounds

OURS = "`pgbackup copy`"
SEQUENCE, PARALLEL = "`aws s3 cp --recursive`, one after the other", "`aws s3 cp --recursive`, three at once"
_SEALED = "wal/bench/7/00000001/{number:024X}-{number:064x}.{ending}"
_LISTING = """
import re, sys, time
from pathlib import Path
from tests.support.s3 import *
from pgbackup.store import LocalStore
settings = S3(bucket=BUCKET, prefix="many")
far = S3Store(settings, partial(make_client, sys.argv[2], (ACCESS, SECRET), settings), name="r", clock=None)
store = LocalStore(Path(sys.argv[1])) if sys.argv[1] else far
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
far._client.head_bucket(Bucket=BUCKET)
before, started = peak(), time.monotonic()
count = sum(1 for _ in store.list("wal/", after=sys.argv[3]))
print(count, time.monotonic() - started, peak() - before)
"""
# A program of its own: what a child is said to have used begins with what its parent had.
_MEASURED = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], check=False).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--aws", default=shutil.which("aws"))
    options = parser.parse_args()
    with ExitStack() as stack:
        regions = []
        for _ in range(3):
            regions.append(Region())
            stack.callback(regions[-1].remove)
        lines = [] if not options.rounds else copies(regions, options)
        lines += listings(regions[0], options.objects)
    conditions = (
        f"Three SeaweedFS regions on the same machine, {options.rounds} interleaved rounds, {machine()}, load average"
        f" {os.getloadavg()[1]:.0f}, {datetime.now(UTC):%Y-%m-%d}. Medians (least to most); a ratio is the median of"
        " the rounds' own."
    )
    write_table("copies", "\n".join([conditions, "", *lines]))


def copies(regions: Sequence[Region], options: argparse.Namespace) -> list[str]:
    """Copy one backup in each way, in turn."""
    rounds = Rounds("one backup to three regions", SEQUENCE)
    peak: dict[str, list[int]] = {}
    with stage(options.scale) as prepared:
        environment = profiles(prepared, regions)
        os.environ.update(environment)
        config = prepared.configure(encrypted=True)
        _, _, [taken] = pgbackup(config, "backup", "full", "--dump-only")
        folder = prepared.folder / "backups" / "full" / taken["id"]
        for number in range(options.rounds + 1):  # the first one warms the caches and does not count
            repositories = {
                f"r{number}-{one}": {"s3": {"bucket": BUCKET, "prefix": f"ours-{number}", "profile": f"r{one}"}}
                for one in range(len(regions))
            }
            config = prepared.configure(encrypted=True, repositories=repositories)
            seconds, memory, _ = pgbackup(config, "copy", taken["id"])
            results = {OURS: (seconds, memory)}
            for name, workers in ((SEQUENCE, 1), (PARALLEL, 3)):
                results[name] = aws(options.aws, folder, f"aws-{number}-{workers}", workers)
            for name, (seconds, memory) in results.items() if number else ():
                rounds.note(name, seconds, size=taken["bytes"])
                peak.setdefault(name, []).append(memory)
    lines = rounds.lines()[:-1]
    lines[0], lines[1] = f"{lines[0]} memory |", f"{lines[1]}---|"
    for index, values in enumerate(peak.values(), start=2):
        lines[index] += f" {statistics.median(values) / 1e6:.0f} MB |"
    return [*lines, ""]


def profiles(prepared: Stage, regions: Sequence[Region]) -> dict[str, str]:
    """Write what boto3 and aws read; return the variables that name it."""
    path = prepared.folder / "aws"
    path.write_text(
        "\n".join(
            f"[profile r{number}]\nregion = us-east-1\nendpoint_url = {region.endpoint}\n"
            f"aws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\ns3 =\n  addressing_style = path\n"
            for number, region in enumerate(regions)
        )
    )
    path.chmod(0o600)
    return {"AWS_CONFIG_FILE": str(path), "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def aws(program: str, folder: Path, prefix: str, workers: int) -> tuple[float, int]:
    """Copy a folder to all regions; return the seconds, and the memory of those that run at the same time."""

    def copy(number: int) -> int:
        target = f"s3://{BUCKET}/{prefix}/{folder.name}/"
        argv = [program, "s3", "cp", "--recursive", "--quiet", "--profile", f"r{number}", str(folder), target]
        done = subprocess.run([sys.executable, "-S", "-c", _MEASURED, *argv], stdout=subprocess.PIPE, check=True)
        return int(done.stdout.split()[-1]) * 1024

    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        peaks = list(pool.map(copy, range(3)))
    return time.monotonic() - started, sum(peaks) if workers > 1 else max(peaks)


def listings(region: Region, count: int) -> list[str]:
    """List many objects in a folder and in a region: all of them, and the last hundred."""
    folder = Path(region.endpoint.replace("http://127.0.0.1:", "/tmp/many-"))  # noqa: S108
    names = [_SEALED.format(number=number // 2, ending=("json", "zst.gpg")[number % 2]) for number in range(count)]
    rows = [f"| listing {count:,} objects | objects | seconds | memory |", "|---|---|---|---|"]
    try:
        (folder / names[0]).parent.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        client = region.admin()

        def put(name: str) -> None:
            client.put_object(Bucket=BUCKET, Key=f"many/{name}", Body=b"x")

        with ThreadPoolExecutor(max_workers=10) as pool:
            list(pool.map(put, names))
        for where, first in (("a folder", str(folder)), ("a region", "")):
            for what, after in (("all", ""), ("behind a key", names[-100].rpartition(".")[0])):
                found, seconds, grown = _list(first, region.endpoint, after)
                rows.append(f"| {where}, {what} | {found:,.0f} | {seconds:.2f} | {grown / 1e3:+.0f} MB |")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def _list(*arguments: str) -> tuple[float, ...]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    argv = [sys.executable, "-c", _LISTING, *arguments]
    return tuple(map(float, subprocess.run(argv, env=environment, capture_output=True, check=True).stdout.split()))


if __name__ == "__main__":
    main()
