"""`agentfly view` as people start it, in a process of its own."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.programs import Program, started

_START = 120.0  # seconds


@dataclass(frozen=True)
class Site:
    """A viewer that answers.

    Attributes:
        address: with the port, without a slash at its end.
        program: its process.
    """

    address: str
    program: Program

    def __call__(self, path: str) -> str:
        """Return the address of a path."""
        return f"{self.address}{path}"

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: str | None = None
    ) -> tuple[int, Mapping[str, str], str]:
        """Send a request as it is written, without cleaning the path as browsers do.

        Returns:
            Status, headers by lower-case name, and body.
        """
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()


@contextmanager
def viewing(*runs: Path, options: tuple[str, ...] = ()) -> Iterator[Site]:
    """Start a viewer of runs and stop it at the end.

    Args:
        *runs: folders.
        options: further words of the command line.
    """
    words = ("-m", "agentfly.cli", "view", *map(str, runs), "--no-open", "--port", "0", *options)
    with started(*words) as program:
        due = time.monotonic() + _START
        while (found := re.search(r"viewer: (http://\S+)/ ", _plain(program.stdout))) is None:
            assert program.poll() is None, _plain(program.stderr)
            assert time.monotonic() < due, "the viewer does not start"
            time.sleep(0.05)
        yield Site(found[1], program)


def _plain(file: Path) -> str:
    """Return what a program has said, with lines that the terminal wrapped joined again."""
    return file.read_text(encoding="utf-8").replace("\n", " ")
