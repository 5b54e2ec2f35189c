"""The first packets of an OpenPGP message (RFC 9580, 4.2): enough to tell whether, and for what, it is encrypted."""

from __future__ import annotations

from enum import Enum


class Packet(Enum):
    """The packets that an encrypted message begins with; the value is their tag."""

    FOR_KEY = 1
    """A session key for the owner of a private key."""
    FOR_PASSPHRASE = 3
    """A session key for whoever knows the passphrase."""


_TAGS = frozenset(one.value for one in Packet)
_VERSIONS = {Packet.FOR_KEY: frozenset({3, 6}), Packet.FOR_PASSPHRASE: frozenset({4, 5, 6})}
_PROTECTED = frozenset({18, 20})
"""Encrypted data that nobody can change unnoticed."""


def first_packets(beginning: bytes) -> frozenset[Packet]:
    """Return what opens a message; nothing when it is not one, or its data are not protected.

    Of a long list of recipients a cut ``beginning`` may show the first ones alone.
    """
    found: set[Packet] = set()
    at = 0
    while at < len(beginning):
        tag, body, length = _header(beginning, at)
        if tag in _PROTECTED or body >= len(beginning):
            break
        if tag not in _TAGS or beginning[body] not in _VERSIONS[Packet(tag)]:
            return frozenset()
        found.add(Packet(tag))
        at = body + length
    return frozenset(found)


def key_ids(beginning: bytes) -> tuple[str, ...]:
    """Return the ids of the keys that a message is encrypted for; of a cut ``beginning`` those that it shows."""
    found: list[str] = []
    at = 0
    while at < len(beginning):
        tag, body, length = _header(beginning, at)
        packet = beginning[body : body + 9]
        if tag != Packet.FOR_KEY.value or len(packet) < 9 or packet[0] != 3:  # gpg writes no other version
            break
        found.append(packet[1:].hex().upper())
        at = body + length
    return tuple(found)


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Return a packet's tag, where its body begins, and its length; the tag is -1 where there is none."""
    first, rest = data[at], data[at + 1 : at + 6].ljust(5, b"\0")
    if not first & 0x80:
        return -1, at, 0
    if not first & 0x40:  # the old format
        width = 1 << (first & 3)
        return first >> 2 & 0xF, at + 1 + width, int.from_bytes(rest[:width], "big")
    if rest[0] < 192:
        return first & 0x3F, at + 2, rest[0]
    if rest[0] < 224:
        return first & 0x3F, at + 3, (rest[0] - 192 << 8) + rest[1] + 192
    return first & 0x3F, at + 6, int.from_bytes(rest[1:], "big")
