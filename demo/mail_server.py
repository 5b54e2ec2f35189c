"""A real SMTP server on the loopback address that keeps every mail as a file.

python -m demo.mail_server PORT FOLDER
"""

import itertools
import signal
import sys
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from demo.layout import LOOPBACK


class Mailbox:
    """Writes each mail, complete or not at all, as ``<UTC time>-<n>.eml``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = itertools.count(1)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep one mail; aiosmtpd calls this by its name."""
        content = envelope.original_content or b""
        path = self.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{next(self.numbers):03}.eml"
        partial = path.with_suffix(".partial")
        partial.write_bytes(content)
        partial.rename(path)
        subject = message_from_bytes(content)["Subject"]
        print(f"{path.name}: to {', '.join(envelope.rcpt_tos)}: {subject}", flush=True)
        return "250 kept"


def serve(port: int, folder: Path) -> None:
    """Receive mail until SIGTERM or SIGINT."""
    stopping = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    controller = Controller(Mailbox(folder), hostname=LOOPBACK, port=port, ready_timeout=30)
    controller.start()
    try:
        signal.sigwait(stopping)
    finally:
        controller.stop()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
