"""Downloading an image from the web without being led into the private network.

Every name is resolved here, every address it has must be public, and the connection goes to exactly the address that
was checked (TLS still verifies the name). Redirects are followed by hand, each one checked the same way. Proxies from
the environment are not used: behind a proxy, what is connected to could not be checked.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING

from agentfly.errors import ImageError

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(url: str, *, timeout: float, max_bytes: int, allow_private_hosts: bool = False) -> bytes:
    """Body of an http(s) address.

    Args:
        url: where the image is.
        timeout: seconds for everything: names, redirects, body.
        max_bytes: the download stops past this.
        allow_private_hosts: also connect to addresses that are not public.

    Raises:
        ImageError: refused, unreachable, too large, or too slow.
    """
    import httpx

    client = httpx.Client(trust_env=False, follow_redirects=False, headers=_HEADERS)
    answer: Future[bytes] = Future()

    def work() -> None:
        try:
            answer.set_result(_follow(client, url, time.monotonic() + timeout, max_bytes, allow_private_hosts))
        except BaseException as fault:
            answer.set_exception(fault)

    # Name look-ups have no time-out of their own, and a server that sends a byte now and then resets every other one.
    threading.Thread(target=work, name="agentfly-fetch", daemon=True).start()
    try:
        return answer.result(timeout)
    except (FutureTimeout, httpx.TimeoutException) as fault:
        raise ImageError(
            f"{shown(url)} did not answer within {timeout:g} s: try again or use another address"
        ) from fault
    except (httpx.HTTPError, httpx.InvalidURL) as fault:
        raise ImageError(f"cannot fetch {shown(url)} ({type(fault).__name__}): check the address") from fault
    finally:
        client.close()


_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "agentfly"}


def shown(url: str) -> str:
    """A URL as messages may show it: without user, password, query and fragment, and short."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.split("?", 1)[0].split("#", 1)[0].partition("/")
    text = f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def _follow(client: httpx.Client, address: str, deadline: float, max_bytes: int, allow_private: bool) -> bytes:
    import httpx

    url = httpx.URL(address)
    for _ in range(MAX_REDIRECTS + 1):
        response = _open(client, url, deadline, allow_private)
        try:
            if not response.has_redirect_location:
                return _body(response, url, deadline, max_bytes)
            url = url.join(response.headers["Location"])
        finally:
            response.close()
    raise ImageError(f"{shown(address)} redirects more than {MAX_REDIRECTS} times: use the direct address")


def _open(client: httpx.Client, url: httpx.URL, deadline: float, allow_private: bool) -> httpx.Response:
    """The answer of one hop, body not read yet, from the first of its addresses that accepts a connection."""
    import httpx

    if url.scheme not in ("http", "https") or not url.host:
        raise ImageError(f"refused {shown(str(url))}: only http and https addresses with a host are fetched")
    host = url.raw_host.decode("ascii")
    refused: httpx.ConnectError | None = None
    for ip in _addresses(host, url.port or (443 if url.scheme == "https" else 80), allow_private):
        request = client.build_request(
            "GET",
            url.copy_with(host=ip),
            headers={"Host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": host},
            timeout=max(0.001, deadline - time.monotonic()),
        )
        try:
            return client.send(request, stream=True)
        except httpx.ConnectError as fault:
            refused = fault
    raise refused or httpx.ConnectError("no address")


def _addresses(host: str, port: int, allow_private: bool) -> list[str]:
    """Addresses of a host, all of them public unless private ones are allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as fault:
        raise ImageError(f"the host {host!r} is not known: check the address") from fault
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    # One private address among public ones is how a hostile name server gets in.
    if not allow_private and not all(map(is_public, addresses)):
        raise ImageError(f"refused {host!r}: it is not a public address; download the image and pass the file")
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, addresses embedded in IPv6 included."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        teredo = ip.teredo
        inner = ip.ipv4_mapped or ip.sixtofour or (teredo[1] if teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _body(response: httpx.Response, url: httpx.URL, deadline: float, max_bytes: int) -> bytes:
    if response.status_code != 200:
        raise ImageError(f"{shown(str(url))} answered {response.status_code}: check the address")
    too_large = f"{shown(str(url))} has more than {max_bytes} bytes: use a smaller image"
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise ImageError(too_large)
    body = bytearray()
    for chunk in response.iter_bytes(64 * 1024):
        body += chunk
        if len(body) > max_bytes:
            raise ImageError(too_large)
        if time.monotonic() > deadline:
            raise ImageError(f"{shown(str(url))} sent its image too slowly: try again or use another address")
    return bytes(body)
