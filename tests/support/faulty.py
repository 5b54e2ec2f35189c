"""A way to a server on which things go wrong: it refuses, hangs, is cut, answers errors, changes bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import Literal

Way = Literal["up", "down"]


@dataclass
class _Cut:
    way: Way
    after: int


@dataclass
class FaultyWay:
    """Forwards a port of its own to ``target``. Faults can be set at any time and hold for open connections too."""

    target: int
    refusing: bool = False
    hanging: bool = False
    answer: int = 0
    """An HTTP status that is answered instead, ``answers`` times."""
    answers: int = 0
    flip: tuple[Way, bytes, bytes] | None = None
    """Bytes that arrive as others."""
    cuts: list[_Cut] = field(default_factory=list)
    refused: bytes = b""
    """A header that the server is said not to know: requests that hold it are answered ``answer``."""
    heads: list[bytes] = field(default_factory=list)
    """The requests that came, without their bodies, in lower case."""
    connections: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self, way: Way, *, after: int, times: int = 1) -> None:
        """Cut the connection on which this many bytes more went a way; then again."""
        self.cuts.extend(_Cut(way, after) for _ in range(times))

    def heal(self) -> None:
        """Let everything through again."""
        self.refusing = self.hanging = False
        self.answers = 0
        self.flip = None
        self.refused = b""
        self.cuts.clear()

    def close(self) -> None:
        """End it, with all its connections."""
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                if self.refusing:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.target))
                self._sockets |= {near, far}
                for way, source, sink in (("up", near, far), ("down", far, near)):
                    threading.Thread(target=self._pump, args=(way, source, sink), daemon=True).start()

    def _pump(self, way: Way, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if self.hanging:
                    continue
                if self.refusing or (way == "up" and self._answered(source, chunk)):
                    break
                if self.flip and self.flip[0] == way:
                    chunk = chunk.replace(self.flip[1], self.flip[2])
                if self._is_cut(way, len(chunk)):
                    break
                sink.sendall(chunk)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _answered(self, near: socket.socket, chunk: bytes) -> bool:
        head = chunk.split(b"\r\n\r\n")[0].lower()
        if b" http/1.1\r\n" not in head:
            return False
        with self._lock:
            self.heads.append(head)
            if not (self.refused and self.refused in head):
                if not self.answers:
                    return False
                self.answers -= 1
        near.sendall(f"HTTP/1.1 {self.answer} Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        return True

    def _is_cut(self, way: Way, count: int) -> bool:
        with self._lock:
            if not self.cuts or self.cuts[0].way != way:
                return False
            self.cuts[0].after -= count
            if self.cuts[0].after > 0:
                return False
            self.cuts.pop(0)
            return True
