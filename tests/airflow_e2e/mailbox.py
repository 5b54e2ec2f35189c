"""A real SMTP server on loopback that wants a password, and the mails that it received."""

from __future__ import annotations

import html
import re
import secrets
import threading
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.source import free_port

LOGIN = "mailer"


@dataclass(frozen=True)
class Mail:
    """One mail as its reader sees it."""

    to: tuple[str, ...]
    subject: str
    text: str


class Mailbox:
    """Listens from start() to stop()."""

    def __init__(self) -> None:
        self.password = secrets.token_urlsafe(16)
        self.port = free_port()
        self.refused = 0
        """Logins with another password than ours."""
        self._mails: list[Mail] = []
        self._raw: list[bytes] = []
        self._lock = threading.Lock()
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            ready_timeout=60,
            authenticator=self._authenticate,
            auth_require_tls=False,
        )

    def start(self) -> None:
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    @property
    def mails(self) -> list[Mail]:
        with self._lock:
            return list(self._mails)

    @property
    def raw(self) -> bytes:
        """Everything received, as it came."""
        with self._lock:
            return b"\n".join(self._raw)

    async def handle_MAIL(  # noqa: N802
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Let in who logged in; aiosmtpd calls this by its name."""
        if not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep one mail; aiosmtpd calls this by its name."""
        content = envelope.original_content or b""
        message = message_from_bytes(content, policy=default)
        assert isinstance(message, EmailMessage)
        body = message.get_body(("html", "plain"))
        text = html.unescape(re.sub(r"<[^>]*>", " ", body.get_content())) if body else ""
        mail = Mail(tuple(envelope.rcpt_tos), str(message["Subject"]), " ".join(text.split()))
        with self._lock:
            self._mails.append(mail)
            self._raw.append(content + (body.get_content().encode() if body else b""))
        return "250 kept"

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: object
    ) -> AuthResult:
        success = given == LoginPassword(LOGIN.encode(), self.password.encode())
        self.refused += not success
        return AuthResult(success=success, handled=False)  # the server answers: a client must not wait in vain
