"""Download an image from the web without access to the private network.

Every name is resolved here, all its addresses must be public, and the connection goes to exactly the address that was
checked (TLS still verifies the name). Redirects are followed here, each one checked the same way. Proxies from the
environment are not used: the address behind a proxy could not be checked.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING

from agentfly.errors import AgentFlyError, ImageError, printable, short_path

if TYPE_CHECKING:
    import httpx

Hold = Callable[[int], None]

MAX_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}
_MAX_ADDRESS = 8192
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Protocol assignments, documentation, the relays of 6to4, benchmarks, and 240.0.0.0/4 with the broadcast address.
_SPECIAL_4 = (
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
    "192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4"
)
_NOT_PUBLIC_4 = [ipaddress.IPv4Network(text) for text in _SPECIAL_4.split()]
# All that is assigned for hosts is in the first; of it, protocols and documentation are not. Addresses that embed one
# of IPv4 (6to4, Teredo, NAT64) are judged by that.
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20")]


def fetch(
    url: str, *, timeout: float, max_bytes: int, allow_private_hosts: bool = False, hold: Hold | None = None
) -> bytes:
    """Return the body of an http(s) address.

    Args:
        url: address of the image.
        timeout: seconds for everything: names, redirects, body.
        max_bytes: bytes of the body at most.
        allow_private_hosts: also connect to addresses that are not public.
        hold: called, in another thread, with the bytes of each piece of the body. An `AgentFlyError` that it raises
            ends the download.

    Raises:
        ImageError: refused, unreachable, too large, or too slow.
    """
    import httpx

    if len(url) > _MAX_ADDRESS:
        raise ImageError(f"{shown(url)} is an address of {len(url)} characters: give one of {_MAX_ADDRESS} at most")
    client = httpx.Client(trust_env=False, follow_redirects=False, headers=_HEADERS)
    answer: Future[bytes] = Future()

    def work() -> None:
        try:
            answer.set_result(_download(client, url, time.monotonic() + timeout, max_bytes, allow_private_hosts, hold))
        except BaseException as fault:
            answer.set_exception(fault)

    # Name look-ups have no timeout of their own, and a server that sends single bytes resets every other timeout.
    threading.Thread(target=work, name="agentfly-fetch", daemon=True).start()
    try:
        return answer.result(timeout)
    except (FutureTimeout, httpx.TimeoutException) as fault:
        raise ImageError(
            f"{shown(url)} did not answer within {timeout:g} s: try again or use another address"
        ) from fault
    except AgentFlyError:
        raise
    except Exception as fault:  # httpx and the codecs of host names raise errors of many kinds on hostile addresses
        raise ImageError(f"cannot fetch {shown(url)} ({type(fault).__name__}): check the address") from fault
    finally:
        client.close()


_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "agentfly"}


def shown(url: str) -> str:
    """Return a URL for messages: short, printable, and without user, password, query and fragment."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.split("?", 1)[0].split("#", 1)[0].partition("/")
    text = printable(f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"[:101]).replace("\n", " ")
    return text if len(text) <= 100 else f"{text[:97]}..."


def _download(
    client: httpx.Client, address: str, deadline: float, max_bytes: int, allow_private: bool, hold: Hold | None
) -> bytes:
    import httpx

    url = httpx.URL(address)
    for _ in range(MAX_REDIRECTS + 1):
        response = _open(client, url, deadline, allow_private)
        try:
            if not response.has_redirect_location:
                return _read_body(response, url, deadline, max_bytes, hold)
            url = url.join(response.headers["Location"])
        finally:
            response.close()
    raise ImageError(f"{shown(address)} redirects more than {MAX_REDIRECTS} times: use the direct address")


def _open(client: httpx.Client, url: httpx.URL, deadline: float, allow_private: bool) -> httpx.Response:
    """Return the answer of one hop, body not read yet, from the first of its addresses that accepts a connection."""
    import httpx

    if url.scheme not in _PORTS or not url.host:
        raise ImageError(f"refused {shown(str(url))}: only http and https addresses with a host are fetched")
    host = url.raw_host.decode("ascii")
    try:
        found = socket.getaddrinfo(host, url.port or _PORTS[url.scheme], type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as fault:
        raise ImageError(f"the host {short_path(host)!r} is not known: check the address") from fault
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    # One private address among public ones is the way in of a hostile name server.
    if not allow_private and not all(map(is_public, addresses)):
        raise ImageError(
            f"refused {short_path(host)!r}: it is not a public address; download the image and pass the file"
        )
    refused: httpx.ConnectError | None = None
    for ip in addresses:
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


def is_public(address: str) -> bool:
    """Return True if an IP address is on the public internet, and so are the addresses embedded in it.

    `is_global` of `ipaddress` depends on the version of Python; networks that some versions take for public, and those
    that nobody serves images from, are listed here.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        special = ip.is_multicast or ip.is_reserved or ip.is_unspecified
        return ip.is_global and not special and not any(ip in network for network in _NOT_PUBLIC_4)
    last = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if (inner := ip.ipv4_mapped or ip.sixtofour or (last if ip in _NAT64 else None)) is not None:
        return is_public(str(inner))
    if ip.teredo is not None:
        return all(is_public(str(inner)) for inner in ip.teredo)
    # The second half of an ISATAP address is 0000:5EFE or 0200:5EFE, and the IPv4 address that packets are sent to.
    isatap = (int(ip) >> 32) & 0xFDFFFFFF == 0x5EFE
    special = ip not in _UNICAST_6 or any(ip in network for network in _NOT_PUBLIC_6)
    return ip.is_global and not special and (not isatap or is_public(str(last)))


def _read_body(response: httpx.Response, url: httpx.URL, deadline: float, max_bytes: int, hold: Hold | None) -> bytes:
    if response.status_code != 200:
        raise ImageError(f"{shown(str(url))} answered {response.status_code}: check the address")
    too_large = f"{shown(str(url))} has more than {max_bytes} bytes: use a smaller image"
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise ImageError(too_large)
    body = bytearray()
    for chunk in response.iter_bytes(64 * 1024):
        if hold is not None:
            hold(len(chunk))
        body += chunk
        if len(body) > max_bytes:
            raise ImageError(too_large)
        if time.monotonic() > deadline:
            raise ImageError(f"{shown(str(url))} sent its image too slowly: try again or use another address")
    return bytes(body)
