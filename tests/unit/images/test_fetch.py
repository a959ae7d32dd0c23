"""Downloads: what is fetched, and what a hostile address does not get."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import AgentFlyError, ImageError
from agentfly.images import ImageLimits, fetch, load_image

OPEN = ImageLimits(allow_private_hosts=True, timeout=5)


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 2), "red").save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by path; keeps the Host headers that it saw."""

    hosts: tuple[str, ...] = ()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        type(self).hosts += (self.headers["Host"],)
        name = self.path.split("?", 1)[0].strip("/")
        getattr(self, f"answer_{name.split('/')[0]}", self.answer_missing)(name)

    def answer_cat(self, name: str) -> None:
        self._send(200, png())

    def answer_page(self, name: str) -> None:
        self._send(200, b"<html>hello</html>")

    def answer_missing(self, name: str) -> None:
        self._send(404, b"")

    def answer_big(self, name: str) -> None:
        self._send(200, b"x" * 100_000)

    def answer_hop(self, name: str) -> None:
        left = int(name.split("/")[1])
        self._redirect(f"/hop/{left - 1}" if left > 1 else "/cat")

    def answer_to(self, name: str) -> None:
        self._redirect(name.split("/", 1)[1].replace("!", "//"))

    def answer_endless(self, name: str) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100_000):
            self.wfile.write(b"x" * 10_000)

    def answer_drip(self, name: str) -> None:
        """One byte of a header now and then: no single read ever times out."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            if self.server.stopping.wait(0.02):  # type: ignore[attr-defined]
                return

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def site() -> Iterator[str]:
    Handler.hosts = ()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stopping = threading.Event()  # type: ignore[attr-defined]
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are what is tested
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stopping.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes host names resolve to what a test wants, one answer after the other; gives the names asked for."""

    def use(**answers: list[list[str]]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: Any, port: Any, *rest: Any, **options: Any) -> list[Any]:
            name = host.decode() if isinstance(host, bytes) else host
            asked.append(name)
            given = answers.get(name.replace(".", "_"))
            found = (given.pop(0) if len(given) > 1 else given[0]) if given else [name]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return use


def test_an_image_is_fetched_through_redirects(site: str) -> None:
    assert load_image(f"{site}/cat?size=2", OPEN).size == (4, 2)
    assert load_image(f"{site}/hop/5", OPEN).size == (4, 2)


def test_endless_redirects_end(site: str) -> None:
    with pytest.raises(ImageError, match="more than 5 times"):
        load_image(f"{site}/hop/6", OPEN)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "localhost",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fc00::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ],
)
def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises(ImageError, match="not a public address"):
        load_image(f"http://{host}:9/a.png")


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "192.0.1.1",
        "198.20.0.1",
        "2606:2800:220:1:248:1893:25c8:1946",
        "64:ff9b::5db8:d822",
        "::ffff:93.184.216.34",
        "2002:5db8:d822::1",
        "2001:0:5db8:d822:0:0:a247:27dd",
        "2606:4700::5efe:5db8:d822",
        "2606:4700::1%eth0",
    ],
)
def test_public_addresses_are_public(address: str) -> None:
    assert fetch.is_public(address)


# First and last addresses of each network in the registries of IANA that is not for hosts of the internet.
NOT_PUBLIC = """
0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.255.255.255
169.254.0.0 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.9 192.0.0.170 192.0.0.255
192.0.2.0 192.0.2.255 192.88.99.0 192.88.99.255 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255
198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255 224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.255
"""
NOT_PUBLIC_6 = """
:: ::1 ::a00:1 ::ffff:0:a00:1 64:ff9b:1:: 64:ff9b:1:ffff:ffff:ffff:ffff:ffff 100:: 100::ffff:ffff:ffff:ffff
100:0:0:1:: 2001:2:: 2001:10:: 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8:: 3fff:: 3fff:fff::1 5f00:: fc00::
fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe80:: febf::1 fec0:: feff::1 ff00:: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
fe80::5efe:5db8:d822 fe80::1%eth0 4000::1 1fff::1
"""


@pytest.mark.parametrize("address", (NOT_PUBLIC + NOT_PUBLIC_6).split())
def test_special_networks_are_not_public_whatever_the_version_of_python(address: str) -> None:
    assert not fetch.is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_an_address_embedded_in_ipv6_is_not_public_either(address: str) -> None:
    ip = int(ipaddress.IPv4Address(address))
    server, hidden = ip << 64, ip ^ 0xFFFFFFFF
    for start, low in (
        ("::ffff:0:0", ip),
        ("64:ff9b::", ip),
        ("2002::", ip << 80),
        ("2001:0:5db8:d822::", hidden),
        ("2001::", server | 0xA24727DD),
        ("2606:4700::5efe:0:0", ip),
        ("2606:4700::200:5efe:0:0", ip),
    ):
        assert not fetch.is_public(str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(start)) + low))), start


def test_one_private_address_among_public_ones_is_enough_to_refuse(names: Callable[..., list[str]]) -> None:
    names(pictures_test=[["93.184.216.34", "127.0.0.1"]])
    with pytest.raises(ImageError, match="not a public address"):
        load_image("http://pictures.test/a.png")


def test_the_connection_goes_to_the_address_that_was_checked(site: str, names: Callable[..., list[str]]) -> None:
    # A second look-up would lead elsewhere, as a hostile name server does it.
    asked = names(pictures_test=[["127.0.0.1"], ["192.0.2.1"]])
    port = site.rpartition(":")[2]
    assert load_image(f"http://pictures.test:{port}/cat", OPEN).size == (4, 2)
    assert asked.count("pictures.test") == 1
    assert Handler.hosts == (f"pictures.test:{port}",)


@pytest.mark.parametrize("target", ["http:!169.254.169.254/latest", "http:!127.0.0.2:1/x", "!10.0.0.1/a.png"])
def test_redirects_into_the_private_network_are_refused(
    site: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(ImageError, match="not a public address"):
        load_image(f"{site}/to/{target}")


def test_redirects_to_other_schemes_are_refused(site: str) -> None:
    with pytest.raises(ImageError, match="only http and https"):
        load_image(f"{site}/to/file:!/etc/passwd", OPEN)


@pytest.mark.parametrize("path", ["big", "endless"])
def test_a_body_past_the_limit_is_not_read_to_its_end(site: str, path: str) -> None:
    with pytest.raises(ImageError, match="more than 50000 bytes"):
        load_image(f"{site}/{path}", ImageLimits(allow_private_hosts=True, max_bytes=50_000, timeout=5))


def test_a_server_that_drips_is_left_in_time(site: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ImageError, match=r"did not answer within 0\.2 s"):
        load_image(f"{site}/drip", ImageLimits(allow_private_hosts=True, timeout=0.2))
    assert time.monotonic() - begun < 1.5


def test_pages_and_missing_images_are_named(site: str) -> None:
    with pytest.raises(ImageError, match="a web page"):
        load_image(f"{site}/page", OPEN)
    with pytest.raises(ImageError, match="answered 404"):
        load_image(f"{site}/nothing", OPEN)


def test_the_second_address_is_tried_when_the_first_does_not_answer(site: str, names: Callable[..., list[str]]) -> None:
    names(pictures_test=[["127.0.0.2", "127.0.0.1"]])
    assert load_image(f"http://pictures.test:{site.rpartition(':')[2]}/cat", OPEN).size == (4, 2)


def test_messages_keep_passwords_and_tokens_to_themselves(site: str) -> None:
    address = site.replace("http://", "http://user:hunter2@") + "/nothing?token=hunter3#hunter4"
    with pytest.raises(ImageError) as caught:
        load_image(address, OPEN)
    assert "hunter" not in str(caught.value)
    assert "/nothing" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a.png",
        "http://[::1",
        "http://a b/",
        "http://x:99999/",
        "http://xn--/a.png",
        "http://xn--a/a.png",
        "http://\ud800/a.png",
        "http://127.0.0.1/\ud800.png",
        "http://127.0.0.1/?\udfff",
        f"http://{'a' * 70}.test/",
        "http://a\u3002\u3002b/",
        "http://127.0.0.1:\u0661/",
    ],
)
def test_addresses_without_sense_are_refused(url: str, names: Callable[..., list[str]]) -> None:
    names()
    with pytest.raises(ImageError) as caught:
        load_image(url)
    assert str(caught.value).encode("utf-8")
    with pytest.raises(ImageError):
        fetch.fetch(url, timeout=5, max_bytes=10)


@pytest.mark.parametrize("piece", ["a", "a.", "\u0661", "a@", ":", "%", "[", "xn--a.", "\u200d"])
def test_a_long_address_is_refused_soon_and_not_repeated(piece: str, names: Callable[..., list[str]]) -> None:
    names()
    for url in (f"http://{piece * (8000 // len(piece))}/", f"http://{piece * 1_000_000}"):
        begun = time.process_time()
        with pytest.raises(ImageError) as caught:
            load_image(url)
        assert len(str(caught.value)) < 300
        assert time.process_time() - begun < 2


def test_the_memory_of_a_body_is_held_while_it_comes(site: str) -> None:
    held: list[int] = []
    body = fetch.fetch(f"{site}/big", timeout=5, max_bytes=200_000, allow_private_hosts=True, hold=held.append)
    assert sum(held) == len(body) == 100_000
    assert len(held) > 1

    class Full(AgentFlyError):
        pass

    def refuse(size: int) -> None:
        raise Full(str(size))

    with pytest.raises(Full):
        fetch.fetch(f"{site}/endless", timeout=5, max_bytes=10**9, allow_private_hosts=True, hold=refuse)
