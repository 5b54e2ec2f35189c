"""The ways that messages go: mail, and any Airflow notifier of the configuration. What one does not take is kept."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.sdk import BaseNotifier

from pgbackup.domain.errors import ConfigurationError, PgBackupError
from pgbackup.domain.model import Message, Unsent
from pgbackup.domain.ports import Site
from pgbackup.domain.settings import Mail, Notifier, Settings
from pgbackup.report.mail import plain, with_note

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Channel:
    """One way; ``send`` raises whatever is wrong with it. Not ``everything``: failures and alerts alone."""

    name: str
    send: Callable[[Message], None]
    everything: bool


def channels(settings: Settings) -> tuple[Channel, ...]:
    """Return the ways that are configured, the mail first; raises ConfigurationError."""
    return tuple(_channels(settings))


def _channels(settings: Settings) -> Iterator[Channel]:
    mail = settings.mail
    if mail is not None:
        yield Channel("mail", lambda message: _mail(mail, message), everything=True)
    for number, one in enumerate(settings.notifiers):
        place = f"notifiers.{number}"
        make = _maker(place, one)
        yield Channel(f"{place} {one.path}", lambda message, make=make: _notify(make(), message), everything=False)  # type: ignore[misc]


def _maker(place: str, notifier: Notifier) -> Callable[[], BaseNotifier]:
    """Import a notifier and see that it can be made and says something; raises ConfigurationError that says why not."""
    module, _, name = notifier.path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        hint = "is its provider installed, in every process of Airflow?"
        raise ConfigurationError(
            f"{place}.class: cannot import {notifier.path}", detail=str(error), hint=hint
        ) from None
    if not (inspect.isclass(found) and issubclass(found, BaseNotifier)):
        hint = "name a subclass of airflow.sdk.BaseNotifier"
        raise ConfigurationError(f"{place}.class: {notifier.path} is no notifier", hint=hint)
    try:
        made = found(**notifier.arguments)
    except Exception as error:  # noqa: BLE001 - somebody else's class: whatever it raises, the arguments are wrong
        detail = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{place}.arguments: {name} cannot be made with them", detail=detail) from None
    shown = [text for field in made.template_fields for text in _texts(getattr(made, field, None))]
    if not any("{{" in text and ("subject" in text or "text" in text) for text in shown):
        raise ConfigurationError(
            f"{place}.arguments: nothing of the message is in them",
            detail=f"{name} fills in: {', '.join(made.template_fields) or 'nothing'}",
            hint="write {{ subject }} or {{ text }} into the argument that is shown; {{ link }} is the run",
        )
    return lambda: found(**notifier.arguments)


def send(site: Site, message: Message, *, alarming: bool) -> tuple[str, ...]:
    """Send a message by every way that wants it; what one does not take is kept, and sent by a later watch.

    Return the names of those that did not take it; raises PgBackupError when it could not be kept for one of them.
    """
    failed: list[str] = []
    unkept: PgBackupError | None = None
    for channel in channels(site.settings):
        if not (channel.everything or alarming):
            continue
        try:
            channel.send(message)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one way, the others are tried
            failed.append(channel.name)
            log.warning("%s does not take %r, it is kept: %s", channel.name, message.subject, error)
            try:
                site.catalog.keep(message, channel=channel.name, error=_short(error), now=site.clock())
            except PgBackupError as lost:
                unkept = lost
        else:
            log.info("sent %r by %s", message.subject, channel.name)
    if unkept is not None:
        raise unkept
    return tuple(failed)


def send_kept(site: Site, cluster: str) -> None:
    """Send what is kept of a cluster, and of those that are configured no more; of one way up to its first failure.

    What was kept for a way that is no more is dropped.
    """
    ways = {channel.name: channel for channel in channels(site.settings)}
    others, down = site.settings.clusters.keys() - {cluster}, set[str]()
    for kept in site.catalog.unsent():
        if kept.message.cluster not in others and kept.channel not in down and not _resend(site, ways, kept):
            down.add(kept.channel)


def _resend(site: Site, ways: Mapping[str, Channel], kept: Unsent) -> bool:
    try:
        with site.catalog.sending(kept.number) as ours:
            if ours and kept.channel in ways:
                note = f"Kept since {kept.kept_at:%Y-%m-%d %H:%M} UTC, when it could not be sent: {kept.error}"
                ways[kept.channel].send(replace(kept.message, html=with_note(kept.message.html, note)))
    except PgBackupError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        log.warning("%s still does not take %r: %s", kept.channel, kept.message.subject, error)
        return False
    log.info("done with %r for %s, kept since %s", kept.message.subject, kept.channel, kept.kept_at)
    return True


def _mail(mail: Mail, message: Message) -> None:
    with SmtpHook(smtp_conn_id=mail.airflow_conn_id) as smtp:
        smtp.send_email_smtp(
            to=list(mail.recipients), from_email=mail.sender, subject=message.subject, html_content=message.html
        )


def _notify(notifier: BaseNotifier, message: Message) -> None:
    """Let a notifier tell it. Not by calling it: then nobody would learn that it failed."""
    words: Any = {
        "subject": message.subject,
        "text": plain(message.html),
        "link": message.link,
        "cluster": message.cluster,
    }
    notifier.render_template_fields(words)
    notifier.notify(words)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
