"""Real clients that are slow, silent, endless or many, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from agentfly.errors import ConfigError
from agentfly.serving.errors import RequestRefused, error_response
from agentfly.serving.http_server import _BodyInTime, _ExhaustionLog, check_port, make_server
from agentfly.serving.settings import ConnectionLimits
from tests.unit.serving.image_server.running import wait_for

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


@dataclass
class App:
    """Answers with the number of headers, and as much as it is told to; `/wait` waits until it is released."""

    reply_bytes: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            while (await receive()).get("more_body"):
                pass
        except RequestRefused as fault:
            await error_response(fault)(scope, receive, send)
            return
        if scope["path"] == "/wait":
            self.waiting += 1
            await self.released.wait()
        text = f"{len(scope['headers'])} headers".encode() + b"." * self.reply_bytes
        length = str(len(text)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": text})


@dataclass
class Served:
    """A server and its application."""

    server: uvicorn.Server
    app: App
    loop: asyncio.AbstractEventLoop

    def connect(self) -> socket.socket:
        return socket.create_connection(self.server.servers[0].sockets[0].getsockname(), timeout=20)

    def exchange(self, sent: bytes) -> bytes:
        """Return what comes until the server closes the connection."""
        with self.connect() as client:
            client.sendall(sent)
            return rest(client)


@contextmanager
def serving(log_level: str = "critical", *, reply_bytes: int = 0, **limits: object) -> Iterator[Served]:
    app = App(reply_bytes)
    server = make_server(app, "127.0.0.1", 0, ConnectionLimits(**limits), log_level=log_level, lifespan="off")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve()), daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield Served(server, app, loop)
    finally:
        server.force_exit = server.should_exit = True
        thread.join(30)
        loop.close()


def rest(client: socket.socket) -> bytes:
    got = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 20):
            got += part
    return bytes(got)


def reply(client: socket.socket) -> bytes:
    got = b""
    while b"headers" not in got:
        part = client.recv(65536)
        assert part, f"the server closed the connection after {got!r}"
        got += part
    return got


@pytest.mark.parametrize("start", [b"", b"G", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_client_without_headers_is_cut_off(start: bytes) -> None:
    with serving(header_seconds=0.2) as served:
        assert served.exchange(start) == b""
        wait_for(lambda: not served.server.server_state.connections)


def test_further_requests_of_a_connection_have_the_same_deadline() -> None:
    with serving(header_seconds=0.3) as served, served.connect() as client:
        for _ in range(3):
            client.sendall(GET)
            assert b" 200 " in reply(client)
        client.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        assert rest(client) == b""
        # uvicorn's own timer, of 5 s, has stopped at the first byte.
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("first", [b"", GET])
def test_headers_are_bounded(first: bytes) -> None:
    with serving() as served, served.connect() as client:
        if first:
            client.sendall(first)
            reply(client)
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.sendall(b"x" * 10_000)
        got = rest(client)
        assert not got or b" 400 " in got.splitlines()[0]
        wait_for(lambda: not served.server.server_state.connections)


def test_trailers_of_a_body_are_not_kept() -> None:
    trailers = b"".join(b"X-%d: y\r\n" % number for number in range(500))
    with serving() as served, served.connect() as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + trailers + b"\r\n")
        assert b"\r\n\r\n2 headers" in reply(client)
        client.sendall(GET)
        assert b"\r\n\r\n1 headers" in reply(client)


def test_a_body_that_comes_too_slowly_is_answered_408_and_its_connection_ends() -> None:
    with serving(body_seconds=0.2, header_seconds=0.3) as served:
        got = served.exchange(POST + b"Content-Length: 10\r\n\r\nx")
    assert b" 408 " in got.splitlines()[0]
    assert b"connection: close" in got
    assert b"body_too_slow" in got


async def test_a_body_that_comes_steadily_may_take_longer() -> None:
    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    body = _BodyInTime(receive, ConnectionLimits(body_seconds=0.03, body_rate=1000))
    for _ in range(5):
        await body()
    assert asyncio.get_running_loop().time() - body._begun > 0.03
    slow = _BodyInTime(receive, ConnectionLimits(body_seconds=0.03, body_rate=1_000_000))
    await slow()
    with pytest.raises(RequestRefused, match="too slowly"):
        await slow()


def test_the_deadline_of_a_body_does_not_end_the_work_after_it() -> None:
    with serving(body_seconds=0.1, header_seconds=0.1) as served, served.connect() as client:
        client.sendall(b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        wait_for(lambda: served.app.waiting)
        passed = threading.Event()
        served.loop.call_soon_threadsafe(served.loop.call_later, 0.3, passed.set)
        assert passed.wait(20)
        served.loop.call_soon_threadsafe(served.app.released.set)
        assert b" 200 " in reply(client)


@pytest.mark.slow
def test_a_client_that_does_not_read_its_reply_is_cut_off() -> None:
    with serving(reply_bytes=64_000_000, send_seconds=0.2) as served, served.connect() as client:
        client.sendall(GET)
        wait_for(lambda: served.server.server_state.total_requests)
        wait_for(lambda: not served.server.server_state.connections)
        assert len(rest(client)) < 64_000_000
        with served.connect() as reader:
            reader.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert len(rest(reader)) > 64_000_000


def test_beyond_the_limit_of_connections_the_one_that_is_idle_for_longest_goes() -> None:
    with serving(connections=3) as served, contextlib.ExitStack() as stack:
        busy, quiet, idle = (stack.enter_context(served.connect()) for _ in range(3))
        wait_for(lambda: len(served.server.server_state.connections) == 3)
        busy.sendall(GET.replace(b"/ ", b"/wait ", 1))
        wait_for(lambda: served.app.waiting)
        for client in (quiet, idle):
            late = stack.enter_context(served.connect())
            late.sendall(GET)
            assert b" 200 " in reply(late)
            assert rest(client) == b""
        served.loop.call_soon_threadsafe(served.app.released.set)
        assert b" 200 " in reply(busy)


def test_if_all_connections_are_served_a_further_one_is_closed() -> None:
    with serving(connections=1) as served, served.connect() as busy:
        busy.sendall(GET.replace(b"/ ", b"/wait ", 1))
        wait_for(lambda: served.app.waiting)
        assert served.exchange(b"") == b""
        served.loop.call_soon_threadsafe(served.app.released.set)
        assert b" 200 " in reply(busy)


@contextmanager
def without_free_files() -> Iterator[None]:
    """Open files until the process may open no more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 50, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for file in taken:
            os.close(file)


def test_a_server_without_free_files_says_so_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as served, socket.socket() as client:
        client.settimeout(20)
        with without_free_files():
            client.connect(served.server.servers[0].sockets[0].getsockname())
            wait_for(lambda: caplog.records)
        client.sendall(GET)
        assert b" 200 " in reply(client)
    assert [record.getMessage().count("ulimit") for record in caplog.records] == [1]


def test_requests_that_are_no_http_cannot_flood_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    with serving("warning") as served:
        for _ in range(20):
            assert b" 400 " in served.exchange(b"\x16\x03\x01 hello\r\n\r\n").splitlines()[0]
            with served.connect() as client:
                client.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
                assert b" 200 " in reply(client)
    shown = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(shown) == len(set(shown))
    assert "Invalid HTTP request received." in " ".join(shown)


async def test_other_faults_of_the_loop_are_logged_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    loop, log = asyncio.get_running_loop(), _ExhaustionLog()
    for _ in range(2000):
        log(loop, {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "files")})
    assert len(caplog.records) == 1
    log(loop, {"message": "something else", "exception": OSError(errno.EIO, "x")})
    assert "something else" in caplog.records[1].getMessage()


def test_a_process_that_may_open_any_number_of_files_has_the_usual_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with serving() as served, served.connect() as one, served.connect() as other:
        for client in (one, other):
            client.sendall(GET)
            assert b" 200 " in reply(client)
        assert served.server.config.backlog == 512


def test_no_more_connections_are_taken_than_half_of_the_files_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (8, 8))
    with serving() as served, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(5)]
        assert rest(clients[0]) == b""
        wait_for(lambda: len(served.server.server_state.connections) == 4)


def test_a_port_that_is_taken_is_told_before_anything_is_loaded() -> None:
    check_port("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port} .* another --port or --host"):
            check_port("127.0.0.1", port)
