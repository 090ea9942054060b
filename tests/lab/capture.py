"""Everything that crosses the wires of a lab, and what it says once put together. Shell.

The program, run in the network of the switch, writes each frame with its length before it.
"""

from __future__ import annotations

import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.lab.switch import Switch

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
ROOM = 64 << 20
_TCP, _UDP = 6, 17


class Wire:
    """A context manager that listens on all cables of a switch."""

    def __init__(self, switch: Switch, path: Path) -> None:
        self._path = path
        here = Path(__file__)
        self._process = subprocess.Popen(
            switch.command(sys.executable, "-m", "tests.lab.capture", str(path)),
            cwd=here.parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "listening\n":
            raise RuntimeError("the capture does not begin")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(30)
        if self._process.stdout:
            self._process.stdout.close()

    def stop(self) -> bytes:
        """Stop listening and give what was said. RuntimeError if frames were lost."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.stdout
        lost = self._process.stdout.readline().strip()
        self._process.wait(30)
        if lost != "lost 0":
            raise RuntimeError(f"the capture is not whole: {lost!r}")
        return said(self._path.read_bytes())


def said(frames: bytes) -> bytes:
    """Put the payloads together: TCP in the order of each stream, then everything as it came.

    Every frame passes two ports, so it is there twice.
    """
    streams: dict[bytes, dict[int, bytes]] = defaultdict(dict)
    datagrams = []
    for frame in _frames(frames):
        packet = _ipv4(frame)
        if packet is None:
            datagrams.append(frame)
            continue
        protocol, hosts, content = packet
        if protocol == _TCP and len(content) >= 20:
            (number,) = struct.unpack("!I", content[4:8])
            payload = content[(content[12] >> 4) * 4 :]
            parts = streams[hosts + content[:4]]
            if len(payload) > len(parts.get(number, b"")):
                parts[number] = payload
        else:
            datagrams.append(content)
    ordered = [b"".join(parts[number] for number in sorted(parts)) for parts in streams.values()]
    return b"\n--\n".join([*ordered, *datagrams])


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from("!I", data, at)
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _ipv4(frame: bytes) -> tuple[int, bytes, bytes] | None:
    """Give protocol, both addresses and the content of an IPv4 packet."""
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return None
    header, total = (frame[14] & 15) * 4, int.from_bytes(frame[16:18], "big")
    # With segmentation left to a card that is none, a packet can be longer than its header can say.
    end = 14 + total if total else len(frame)
    return frame[23], frame[26:34], frame[14 + header : end]


def main(path: str) -> None:
    """Write frames until SIGTERM, then what is still on its way, and say how many were lost."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire,
        Path(path).open("wb") as out,
    ):
        wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        wire.settimeout(0.2)
        _tell("listening")
        while not (stop.is_set() and _is_quiet(wire)):
            try:
                frame = wire.recv(1 << 17)
            except TimeoutError:
                continue
            out.write(struct.pack("!I", len(frame)) + frame)
        statistics = wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
    _tell(f"lost {struct.unpack('=II', statistics)[1]}")


def _is_quiet(wire: socket.socket) -> bool:
    return not select.select([wire], [], [], 0)[0]


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
