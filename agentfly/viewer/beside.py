"""A viewer in a process of its own beside a run: `python -m agentfly.viewer.beside FOLDER SOCKET`.

The run never waits for it and is never ended by it. It has a low priority, is the first to go when memory is short, and
ends with the process that started it, however that ends: that one holds the other end of its standard input.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from agentfly.errors import ConfigError
from agentfly.process_tree import MARKER
from agentfly.viewer.command import find_runs, listen, serve
from agentfly.viewer.settings import ViewerSettings

logger = logging.getLogger(__name__)

_PRIORITY = 10  # niceness
_END_SECONDS = 10.0


class ViewerBeside:
    """A viewer beside a run, for a `with` block, at the end of which it ends.

    Args:
        folder: of the run.
        log: file for what it prints, in a folder that is there when it starts.

    Attributes:
        address: of its pages; None while there is none.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log
        self._process: subprocess.Popen[bytes] | None = None
        self.address: str | None = None

    def __enter__(self) -> ViewerBeside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str | None:
        """Start it and return its address; None, with a warning, where that cannot be done."""
        try:
            with _socket() as listening, self._log.open("wb") as log:
                number = listening.fileno()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "agentfly.viewer.beside", str(self._folder), str(number)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(number,),
                    # Ctrl-C is for the run; and it is no process of a run that a launcher clears up after.
                    start_new_session=True,
                    env={name: value for name, value in os.environ.items() if name != MARKER},
                )
                self.address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        except (OSError, ConfigError) as fault:
            logger.warning("there is no viewer: %s", fault)
        return self.address

    def wait(self) -> None:
        """Wait until it ends, or somebody presses Ctrl-C."""
        if self._process is not None:
            with suppress(KeyboardInterrupt):
                self._process.wait()

    def stop(self) -> None:
        """End it. Safe to call twice."""
        process, self._process, self.address = self._process, None, None
        if process is None or process.stdin is None:
            return
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _socket() -> socket.socket:
    """Return a listening socket at the usual port, or at a free one where that is taken."""
    try:
        return listen(ViewerSettings())
    except ConfigError:
        return listen(ViewerSettings(port=0))


def main() -> None:
    """Serve the pages until the starter is gone."""
    folder, number = sys.argv[1:]
    os.nice(_PRIORITY)
    with suppress(OSError):  # Linux alone has this
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    threading.Thread(target=_end_with_starter, daemon=True).start()
    listening = socket.socket(fileno=int(number))
    serve(find_runs([Path(folder)]), ViewerSettings(), lambda _: None, listening=listening)


def _end_with_starter() -> None:
    sys.stdin.buffer.read()
    # A server that waits for open connections would stay.
    os._exit(0)


if __name__ == "__main__":
    main()
