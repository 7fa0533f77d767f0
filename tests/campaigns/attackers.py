"""Attacks on a signer, for a process of their own: `python -m tests.campaigns.attackers`.

They know sockets only, and nothing of the package: `NAME --port N --tls-port N --source IP
--seconds S`. In the end they print as JSON how many connections they made, and how many
of them were refused or closed before they were done.
"""

import argparse
import asyncio
import json
import os
import resource
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from attrs import define

FEW = 4
AT_MOST = 16
"""Connections with which one who may ask must not hold up the others."""
KEY = b"/keys/tz1RecHxwZJmZY4dypq2KmvxKYgUBGJceH1v"
MANY = 2000
_CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
_DRIP = 0.5
_RETURN = 5.0
"""Seconds after which an idle client who had to go comes back; at once, it would be a flood."""


@define
class Target:
    """Where the signer is, where an attacker comes from, and what he has seen."""

    port: int
    tls_port: int
    socket_port: int
    source: str
    made: int = 0
    refused: int = 0

    async def connect(self, port: int | None = None) -> socket.socket:
        """A new connection; it may be refused only later, by being closed."""
        loop = asyncio.get_running_loop()
        while True:
            connection = socket.socket()
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                connection.bind((self.source, 0))
                await loop.sock_connect(connection, ("127.0.0.1", port or self.port))
            except OSError:
                self.refused += 1
                connection.close()
                await asyncio.sleep(0.01)
                continue
            self.made += 1
            return connection

    async def send(self, connection: socket.socket, data: bytes) -> None:
        """Send; raises OSError when the connection is gone."""
        await asyncio.get_running_loop().sock_sendall(connection, data)

    async def until_closed(self, connection: socket.socket) -> None:
        """Read until the signer has closed the connection."""
        with suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(connection, 65536):
                pass
        self.refused += 1
        connection.close()


Attack = Callable[[Target], Awaitable[None]]


async def _drip(target: Target, head: bytes, drop: bytes, port: int | None = None) -> None:
    """A beginning, and then a little now and then; again when it is cut off."""
    while True:
        connection = await target.connect(port)
        try:
            await target.send(connection, head)
            while True:
                await asyncio.sleep(_DRIP)
                await target.send(connection, drop)
        except OSError:
            target.refused += 1
        finally:
            connection.close()


def _many(count: int, attack: Attack) -> Attack:
    async def run(target: Target) -> None:
        await asyncio.gather(*(attack(target) for _ in range(count)))

    return run


async def _slow_headers(target: Target) -> None:
    await _drip(target, b"GET / HTTP/1.1\r\n", b"X: y\r\n")


async def _slow_body(target: Target) -> None:
    head = b"POST %b HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" % KEY
    await _drip(target, head, b"1")


async def _slow_handshake(target: Target) -> None:
    await _drip(target, _CLIENT_HELLO, b"\x00", target.tls_port)


async def _idle(target: Target) -> None:
    while True:
        await target.until_closed(await target.connect())


async def _byte_idle(target: Target) -> None:
    """Idle, but not for the system, which keeps connections without a byte to itself."""
    while True:
        connection = await target.connect()
        with suppress(OSError):
            await target.send(connection, b"G")
        await target.until_closed(connection)
        await asyncio.sleep(_RETURN)


async def _flood(target: Target) -> None:
    while True:
        (await target.connect()).close()


async def _byte_flood(target: Target) -> None:
    while True:
        connection = await target.connect()
        with suppress(OSError):
            await target.send(connection, b"G")
        connection.close()


async def _chunks(chunks: bytes, target: Target) -> None:
    """A body that never ends, of these again and again, on one connection behind the other."""
    head = b"POST %b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % KEY
    while True:
        connection = await target.connect()
        try:
            await target.send(connection, head)
            while True:
                await target.send(connection, chunks)
        except OSError:
            target.refused += 1
        finally:
            connection.close()


async def _ask(target: Target, request: bytes) -> None:
    """The same request, again and again, on a connection each."""
    while True:
        connection = await target.connect()
        with suppress(OSError):
            await target.send(connection, request)
            await asyncio.get_running_loop().sock_recv(connection, 65536)
        connection.close()


async def _semicolons(target: Target) -> None:
    head = b"POST %b HTTP/1.1\r\nContent-Type: a/b%b\r\nContent-Length: 4\r\n\r\n"
    await _ask(target, head % (KEY, b";" * 12_000) + b'"11"')


async def _deep_json(target: Target) -> None:
    head = b"POST %b HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" % KEY
    await _ask(target, head + b"[" * 100_000)


async def _stalled_frames(target: Target) -> None:
    while True:
        connection = await target.connect(target.socket_port)
        with suppress(OSError):
            await target.send(connection, b"\xff\xff\x00")
        await target.until_closed(connection)


async def _half_closed(target: Target) -> None:
    while True:
        connection = await target.connect()
        with suppress(OSError):
            await target.send(connection, b"GET / HTTP/1.1\r\n")
            connection.shutdown(socket.SHUT_WR)
        await target.until_closed(connection)


async def _half_closed_socket(target: Target) -> None:
    while True:
        connection = await target.connect(target.socket_port)
        with suppress(OSError):
            await target.send(connection, b"\x00\x40\x00")
            connection.shutdown(socket.SHUT_WR)
        await target.until_closed(connection)


_LONG_CHUNK = b"4000\r\n%b\r\n" % (b"1" * 0x4000)
_BYTE_CHUNKS = b"1\r\n1\r\n" * 10_000


async def _byte_chunks_tls(target: Target) -> None:
    """The same inside TLS."""
    head = b"POST %b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % KEY
    await _inside_tls(target, head, _BYTE_CHUNKS)


async def _arguments(target: Target) -> None:
    """A query of thousands of arguments."""
    await _ask(target, b"GET %b?%b HTTP/1.1\r\nHost: x\r\n\r\n" % (KEY, b"a&" * 8000))


async def _arguments_tls(target: Target) -> None:
    """The same inside TLS."""
    request = b"GET %b?%b HTTP/1.1\r\nHost: x\r\n\r\n" % (KEY, b"a&" * 8000)
    await _inside_tls(target, request, request)


async def _handshakes(target: Target) -> None:
    """Handshakes of TLS, each of which takes a signature, and nothing else."""
    await _inside_tls(target, b"", b"")


async def _inside_tls(target: Target, head: bytes, more: bytes) -> None:
    """Connect with TLS, say something, and go on saying more; again when it is over."""
    context = ssl.create_default_context()  # of which no connection takes up another's session
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    while True:
        connection = await target.connect(target.tls_port)
        writer = None
        try:
            _, writer = await asyncio.open_connection(
                sock=connection, ssl=context, server_hostname="localhost"
            )
            if head:
                writer.write(head)
                while not writer.transport.is_closing():
                    writer.write(more)
                    await writer.drain()
                    await asyncio.sleep(0)  # or nothing tells that the connection is gone
        except OSError:
            target.refused += 1
        finally:
            if writer is not None:
                writer.transport.abort()
        await asyncio.sleep(0)


_ROUTE = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
_AUTHORIZED_KEYS = b"\x00\x01\x02"
_AT_ONCE = 1000


async def _pipeline(target: Target, request: bytes, port: int, reads: bool) -> None:
    """Send one request behind the other, and read the answers or never any."""
    while True:
        connection = await target.connect(port)
        tasks = [asyncio.create_task(_send_endlessly(target, connection, request * _AT_ONCE))]
        if reads:
            tasks.append(asyncio.create_task(_receive_endlessly(connection)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            connection.close()
        target.refused += 1


async def _send_endlessly(target: Target, connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        while True:
            await target.send(connection, data)


async def _receive_endlessly(connection: socket.socket) -> None:
    with suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(connection, 65536):
            pass


async def _pipelining(target: Target) -> None:
    await _pipeline(target, _ROUTE, target.port, reads=True)


async def _never_reading(target: Target) -> None:
    await _pipeline(target, _ROUTE, target.port, reads=False)


async def _pipelining_socket(target: Target) -> None:
    await _pipeline(target, _AUTHORIZED_KEYS, target.socket_port, reads=True)


async def _never_reading_socket(target: Target) -> None:
    await _pipeline(target, _AUTHORIZED_KEYS, target.socket_port, reads=False)


ATTACKS: dict[str, Attack] = {
    "slow-headers": _many(500, _slow_headers),
    "slow-body": _many(500, _slow_body),
    "slow-handshake": _many(500, _slow_handshake),
    "idle-connections": _many(MANY, _idle),
    "byte-idle": _many(MANY, _byte_idle),
    "connection-flood": _many(100, _flood),
    "byte-flood": _many(100, _byte_flood),
    "endless-chunks": _many(8, partial(_chunks, _LONG_CHUNK)),
    "semicolons": _many(8, _semicolons),
    "deep-json": _many(8, _deep_json),
    "byte-chunks": _many(AT_MOST, partial(_chunks, _BYTE_CHUNKS)),
    "byte-chunks-tls": _many(AT_MOST, _byte_chunks_tls),
    "arguments": _many(AT_MOST, _arguments),
    "arguments-tls": _many(AT_MOST, _arguments_tls),
    "handshakes": _many(AT_MOST, _handshakes),
    "half-closed": _many(100, _half_closed),
    "half-closed-socket": _many(100, _half_closed_socket),
    "stalled-frames": _many(500, _stalled_frames),
    "pipelining": _many(FEW, _pipelining),
    "never-reading": _many(FEW, _never_reading),
    "pipelining-socket": _many(FEW, _pipelining_socket),
    "never-reading-socket": _many(FEW, _never_reading_socket),
}
"""By name, each with as many connections at a time as it takes to hurt."""


def main() -> None:
    """Attack for some seconds, and say what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-port", type=int, default=0)
    parser.add_argument("--socket-port", type=int, default=0)
    parser.add_argument("--source", default="127.0.0.2")
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    target = Target(options.port, options.tls_port, options.socket_port, options.source)

    async def attack() -> None:
        # Not `wait_for`: a task that begins TLS at that moment would not be cancelled.
        await asyncio.wait(
            {asyncio.ensure_future(ATTACKS[options.attack](target))}, timeout=options.seconds
        )
        json.dump({"made": target.made, "refused": target.refused}, sys.stdout)
        sys.stdout.flush()
        os._exit(0)

    asyncio.run(attack())


if __name__ == "__main__":
    main()
