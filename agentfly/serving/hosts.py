"""The names by which clients may address a server, and the web pages that may use it.

A web page can have a browser send requests to a server that the page itself could never reach. Either it simply posts
a form there, which its `Origin` shows. Or its own name changes to the server's address after it was loaded (DNS
rebinding); then `Host` and `Origin` have a name that is not the server's. Both are refused here.

An IP address in `Host` needs no check, as rebinding takes a name. A server that listens on loopback alone knows its
names. One that listens on other addresses cannot know how its clients, such as those of a training cluster, call it:
there any `Host` will do unless names are given. Requests of browsers are still checked by their `Origin`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from agentfly.serving.errors import RequestRefused


def is_loopback(host: str) -> bool:
    """Return True for loopback addresses and the names that always mean them."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class AllowedHosts:
    """The check of `Host` and `Origin`.

    Args:
        bound: address or name that the server listens on.
        names: further names; `*.example.com` stands for all names below that one, `*` for any name.
    """

    def __init__(self, bound: str, names: Sequence[str] = ()) -> None:
        own = socket.gethostname().lower()
        self._given = frozenset(name.lower() for name in names)
        self._own = frozenset((own, own.partition(".")[0], bound.lower()))
        self._any_host = "*" in self._given or not (names or is_loopback(bound))

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Check the headers of a request.

        Raises:
            RequestRefused: it is meant for another host, or comes from a web page of another site.
        """
        hosts, origins = [], []
        for name, value in headers:
            if name == b"host":
                hosts.append(value.decode("latin-1").strip())
            elif name == b"origin":
                origins.append(value.decode("latin-1").strip())
        for host in hosts:
            # Programs of old leave it empty or out; browsers do not.
            name_of_host = _name_of(f"//{host}")
            if host and not self._any_host and not self._is_ours(name_of_host):
                raise _refused(421, "host", "this server does not answer to the name", name_of_host, host)
        for origin in origins:
            name_of_origin = _name_of(origin)
            same = hosts and origin.partition("//")[2].lower() == hosts[-1].lower() and self._is_ours(name_of_origin)
            if not (same or is_loopback(name_of_origin) or self._is_given(name_of_origin)):
                raise _refused(403, "origin", "this server does not serve web pages of", name_of_origin, origin)

    def _is_ours(self, name: str) -> bool:
        known = name in self._own or "*" in self._given or self._is_given(name)
        return known or _is_address(name) or is_loopback(name)

    def _is_given(self, name: str) -> bool:
        # `*` is about the names of the server: it does not let in the pages of every site.
        above = (name[index:] for index, char in enumerate(name) if char == ".")
        return name in self._given or any(f"*{suffix}" in self._given for suffix in above)


def _name_of(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refused(status: int, what: str, problem: str, name: str, sent: str) -> RequestRefused:
    shown = (name or sent)[:100].encode("ascii", "backslashreplace").decode()
    fixes = ["address it by its IP address or localhost"] if status == 421 else []
    if name:
        fixes.append(f"start it with --allowed-hosts {shown}")
    elif status == 403:
        # The pages of files, and of sandboxed frames, come from "null", which no option can name.
        fixes.append("open the page from a server")
    return RequestRefused(f"{problem} {shown!r}: {', or '.join(fixes)}", status=status, code=f"{what}_not_allowed")
