"""The quick start as it is printed: servers, a key, a backup with its proof, an accident, every row back."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.source import ROOT, free_port, programs

from pgbackup.postgres.throwaway import _PREFIX, _isolation

# What a reader's next step takes longer than a machine's: all that was written is on the receiver's disk.
RECEIVED = """
until [ "$(sql "SELECT flush_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication")" = t ]; do sleep 0.1; done
"""


@pytest.fixture
def desk() -> Iterator[Path]:
    """A new folder, and programs that refuse to be root called as somebody else; servers left there are stopped."""
    folder = Path(tempfile.mkdtemp(prefix="pgquick", dir="/tmp"))
    prefix = _PREFIX["user" if _isolation() == "namespace" else _isolation()]
    if _isolation() == "nobody":
        shutil.chown(folder, 65534, 65534)
    shims = folder / "shims"
    shims.mkdir(mode=0o755)
    for name in ("initdb", "pg_ctl"):
        (shims / name).write_text(f'#!/bin/sh\nexec {" ".join(prefix)} {programs() / name} "$@"\n')
        (shims / name).chmod(0o755)
    (shims / "pgbackup").write_text(f'#!/bin/sh\nexec {sys.executable} -m pgbackup.cli "$@"\n')
    (shims / "pgbackup").chmod(0o755)
    try:
        yield folder
    finally:
        for pid in folder.glob("*/postmaster.pid"):
            subprocess.run([str(shims / "pg_ctl"), f"--pgdata={pid.parent}", "--mode=immediate", "stop"], check=False)
        shutil.rmtree(folder)


def test_the_quick_start_ends_with_every_row(desk: Path) -> None:
    text = (ROOT / "docs" / "quickstart.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    [again] = [number for number, block in enumerate(blocks) if "recover table" in block]
    script = "\n".join(["set -eu", *blocks[:again], RECEIVED, *blocks[again:]])
    for printed in ("54331", "54332"):
        script = script.replace(printed, str(free_port()))
    env = {
        **os.environ,
        "PATH": f"{desk / 'shims'}:{programs()}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "plugins"),
        "CHECKOUT": str(ROOT),
        "COLUMNS": "200",
    }
    # Output goes to a file: a server that were left running would keep a pipe open.
    with (desk / "said").open("w+") as said:
        process = subprocess.Popen(
            ["sh"],
            cwd=desk,
            env=env,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        try:
            process.communicate(script, timeout=240)
        finally:
            if process.poll() is None or process.returncode:  # the receiver is a child of the shell
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
        said.seek(0)
        output = said.read()
    assert process.returncode == 0, output
    assert "All ratings are back" in output
    assert not list(desk.glob("*/postmaster.pid")), "servers were left running"
