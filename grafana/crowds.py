"""Crowds for faults.py, over plain sockets: those who read slowly, those who
write without end, those who read over HTTP."""

import contextlib
import json
import secrets
import socket
import threading
import time
import urllib.request
from urllib.parse import urlsplit

# Longer than a request waits for anything.
HTTP_TIMEOUT_S = 30
# Tokens are good for 15 minutes.
RENEW_S = 600
# A drawing that is large, so that few of them fill an outbox.
LARGE_BYTES = 8_000


class Person:
    """Somebody with an account, who may make rooms."""

    def __init__(self, url):
        self.url = url
        self.turn = threading.Lock()
        name = secrets.token_hex(8)
        self.secret = {"email": f"{name}@faults.invalid", "password": secrets.token_hex(16)}
        self._take(self._ask("/v1/signup", {**self.secret, "name": name}))

    def post(self, path, body):
        return self._ask(path, body, self.token())

    def get(self, path):
        return self._ask(path, None, self.token())

    def token(self):
        with self.turn:
            if time.monotonic() > self.renew_at:
                self._take(self._ask("/v1/signin", self.secret))
            return self._token

    def _take(self, answer):
        self._token, self.renew_at = answer["token"], time.monotonic() + RENEW_S

    def _ask(self, path, body, token=None):
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        body = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:
            return json.load(answer)

    def room(self):
        return self.post("/v1/rooms", {"slug": f"faults-{secrets.token_hex(8)}", "schema": "open"})["room"]

    def join(self, url, room, receive_buffer=None):
        """A socket to this gateway or balancer that is in the room."""
        place = urlsplit(url)
        end = socket.socket()
        if receive_buffer:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        end.settimeout(HTTP_TIMEOUT_S)
        end.connect((place.hostname, place.port))
        end.sendall(
            f"GET /v1/ws HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: roomgate.v1, bearer.{self.token()}\r\n\r\n".encode()
        )
        _read_until(end, b"\r\n\r\n")
        end.sendall(frame({"type": "join", "id": "1", "room": room}))
        _read_until(end, b'"last":true')
        return end


class SlowReaders:
    """Sessions on one node, in a room where much is drawn, over lines that carry little."""

    # Fast enough for the kernel's buffers to show that there is progress at all.
    BYTES_PER_S = 40_000
    TURN_S = 0.1

    def __init__(self, node, room, person, count):
        self.over = threading.Event()
        self.ends = [person.join(node, room, receive_buffer=16_384) for _ in range(count)]
        self.drawing = Writers(node, room, person, 1, per_s=40, body="x" * LARGE_BYTES)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for end in self.ends:
            end.setblocking(False)
        while not self.over.wait(self.TURN_S):
            for end in self.ends:
                with contextlib.suppress(OSError):
                    end.recv(int(self.BYTES_PER_S * self.TURN_S))

    def close(self):
        self.over.set()
        self.drawing.close()
        leave(self.ends)


class Writers:
    """Sessions that submit to one room, as fast as they are read or so many a second."""

    def __init__(self, url, room, person, count, per_s=None, body=""):
        self.over = threading.Event()
        self.ends = [person.join(url, room) for _ in range(count)]
        for end in self.ends:
            threading.Thread(target=self._write, args=(end, room, per_s, body), daemon=True).start()
            threading.Thread(target=self._read, args=(end,), daemon=True).start()

    def _write(self, end, room, per_s, body):
        name, number = secrets.token_hex(6), 0
        while not self.over.is_set():
            shapes = ({"id": f"{name}-{i % 50}", "type": "rect", "x": i, "y": 1, "width": 9, "height": 9, "note": body}
                      for i in range(number, number + (1 if per_s else 20)))  # fmt: skip
            for shape in shapes:
                number += 1
                told = {"type": "submit", "room": room, "op": f"{name}-{number}", "kind": "shape.put", "shape": shape}
                try:
                    end.sendall(frame(told))
                except OSError:
                    return
            if per_s:
                time.sleep(1 / per_s)

    def _read(self, end):
        """Takes it all, so that these are no slow clients."""
        end.settimeout(None)
        with contextlib.suppress(OSError):
            while end.recv(1 << 18):
                pass

    def close(self):
        self.over.set()
        leave(self.ends)


class Readers:
    """So many who read over HTTP, one page after the other."""

    def __init__(self, person, paths, count, pause_s):
        self.over = threading.Event()
        for i in range(count):
            threading.Thread(target=self._read, args=(person, paths, i, pause_s), daemon=True).start()

    def _read(self, person, paths, turn, pause_s):
        while not self.over.wait(pause_s):
            turn += 1
            with contextlib.suppress(OSError, ValueError):
                person.get(paths[turn % len(paths)])

    def close(self):
        self.over.set()


def leave(ends):
    for end in ends:
        # Wakes whoever reads or writes; the other side may have gone already.
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def frame(message):
    """A masked text frame. The mask is zero, which leaves the text as it is."""
    text = json.dumps(message, separators=(",", ":")).encode()
    size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + text


def _read_until(end, mark):
    heard = b""
    while mark not in heard:
        more = end.recv(1 << 16)
        if not more:
            raise OSError(f"closed before {mark}: {heard[:200]}")
        heard += more
