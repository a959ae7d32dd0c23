"""Whom a server answers: its own names, and no web page of another site."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.serving.errors import RequestRefused
from agentfly.serving.hosts import AllowedHosts
from agentfly.serving.settings import ConnectionLimits


def status(hosts: AllowedHosts, host: str | None, origin: str | None = None) -> int:
    sent = {b"host": host, b"origin": origin}
    try:
        hosts.check([(name, value.encode("latin-1")) for name, value in sent.items() if value is not None])
    except RequestRefused as fault:
        return fault.status
    return 200


@pytest.mark.parametrize(
    ("bound", "names", "host", "expected"),
    [
        ("127.0.0.1", (), "localhost:8000", 200),
        ("127.0.0.1", (), "LocalHost.:8000", 200),
        ("127.0.0.1", (), "app.localhost", 200),
        ("127.0.0.1", (), "127.0.0.1:8000", 200),
        ("127.0.0.1", (), "[::1]:8000", 200),
        ("127.0.0.1", (), "10.0.0.5", 200),
        ("127.0.0.1", (), socket.gethostname(), 200),
        ("127.0.0.1", (), None, 200),
        ("127.0.0.1", (), "", 200),
        ("127.0.0.1", (), "evil.example:8000", 421),
        ("127.0.0.1", (), "localhost.evil.example", 421),
        ("127.0.0.1", (), "127.0.0.1.evil.example", 421),
        ("127.0.0.1", (), "localhost@evil.example", 421),
        ("127.0.0.1", (), "[::1", 421),
        ("localhost", (), "evil.example", 421),
        ("::1", (), "evil.example", 421),
        ("127.0.0.1", ("images.example",), "Images.Example:80", 200),
        ("127.0.0.1", ("images.example",), "a.images.example", 421),
        ("127.0.0.1", ("*.svc.local",), "images-0.images.svc.local", 200),
        ("127.0.0.1", ("*.svc.local",), "svc.local", 421),
        ("127.0.0.1", ("*.svc.local",), "evilsvc.local", 421),
        ("127.0.0.1", ("*",), "evil.example", 200),
        ("0.0.0.0", (), "node-7.cluster", 200),
        ("::", (), "node-7.cluster", 200),
        ("10.0.0.5", (), "node-7.cluster", 200),
        ("node-7.cluster", (), "images", 200),
        ("0.0.0.0", ("images.example",), "node-7.cluster", 421),
    ],
)
def test_names_of_the_server(bound: str, names: tuple[str, ...], host: str | None, expected: int) -> None:
    assert status(AllowedHosts(bound, names), host) == expected


@pytest.mark.parametrize(
    ("bound", "names", "host", "origin", "expected"),
    [
        ("127.0.0.1", (), "127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("127.0.0.1", (), "127.0.0.1:8000", "http://localhost:3000", 200),
        ("127.0.0.1", (), "127.0.0.1:8000", "https://evil.example", 403),
        ("127.0.0.1", (), "127.0.0.1:8000", "http://1.2.3.4", 403),
        ("127.0.0.1", (), "127.0.0.1:8000", "null", 403),
        ("127.0.0.1", (), "127.0.0.1:8000", "", 403),
        ("127.0.0.1", (), "127.0.0.1:8000", "http://[", 403),
        ("127.0.0.1", ("*",), "evil.example", "http://other.example", 403),
        ("127.0.0.1", ("app.example",), "localhost", "https://app.example", 200),
        ("0.0.0.0", (), "10.0.0.5:8000", "http://10.0.0.5:8000", 200),
        ("0.0.0.0", (), f"{socket.gethostname()}:8000", f"http://{socket.gethostname()}:8000", 200),
        ("0.0.0.0", (), "evil.example:8000", "http://evil.example:8000", 403),
        ("0.0.0.0", ("images.example",), "images.example", "https://images.example", 200),
    ],
)
def test_pages_of_other_sites(bound: str, names: tuple[str, ...], host: str, origin: str, expected: int) -> None:
    assert status(AllowedHosts(bound, names), host, origin) == expected


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_header_is_accepted_or_refused(host: bytes, origin: bytes) -> None:
    with contextlib.suppress(RequestRefused):
        AllowedHosts("127.0.0.1").check([(b"host", host), (b"origin", origin)])


def test_a_refusal_names_the_option_and_never_repeats_more_than_a_name() -> None:
    with pytest.raises(RequestRefused, match=r"start it with --allowed-hosts images\.example$") as caught:
        AllowedHosts("127.0.0.1").check([(b"host", b"images.example:8000")])
    assert caught.value.code == "host_not_allowed"
    with pytest.raises(RequestRefused) as caught:
        AllowedHosts("127.0.0.1").check([(b"host", b"\xff" * 10_000)])
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("name", ["http://images.example", "images.example:80", "a b", "a,b", "", "a.*", "**"])
def test_names_that_cannot_match_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--allowed-hosts.*without scheme and port"):
        ConnectionLimits(allowed_hosts=(name,))


@pytest.mark.parametrize(
    ("host", "origin", "advice"),
    [
        ("evil.example", None, "localhost, or start it with --allowed-hosts evil.example"),
        ("[::1", None, "localhost"),
        ("localhost", "http://evil.example", ": start it with --allowed-hosts evil.example"),
        ("localhost", "null", ": open the page from a server"),
    ],
)
def test_a_refusal_advises_only_what_helps(host: str, origin: str | None, advice: str) -> None:
    sent = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    with pytest.raises(RequestRefused) as fault:
        AllowedHosts("127.0.0.1").check(sent)
    assert str(fault.value).endswith(advice)
