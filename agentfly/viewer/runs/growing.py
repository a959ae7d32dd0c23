"""Files of lines that grow while a run goes on: each look reads what was appended since the last."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import BinaryIO

_HEAD, _TAIL = 256, 64  # bytes by which a file is known again
_MOST = 64 * 2**20  # bytes of one look: a log is not read whole where it is larger


class GrowingFile:
    """Reader of a file of lines that may not be there yet, and may be cut or replaced, as at a resume.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self._offset, self._inode, self._head, self._tail = 0, -1, b"", b""

    def new_lines(self) -> tuple[list[bytes], bool]:
        """Return the complete lines since the last call, and True if the file is another one than before.

        After True, the lines are those from the beginning, and what was read before no longer counts. Call it with
        `lock` held. A file that cannot be read has no lines.
        """
        try:
            if self.path.is_file():  # a pipe would never end
                with self.path.open("rb") as file:
                    return self._read(file)
        except OSError:
            pass
        anew, self._inode = self._inode != -1, -1
        return [], anew

    def _read(self, file: BinaryIO) -> tuple[list[bytes], bool]:
        status, head = os.fstat(file.fileno()), file.read(_HEAD)
        file.seek(max(0, self._offset - _TAIL))
        same = status.st_ino == self._inode and status.st_size >= self._offset and head.startswith(self._head)
        same = same and file.read(min(_TAIL, self._offset)) == self._tail
        if not same:
            self._offset, self._inode, self._tail = 0, status.st_ino, b""
        self._head = head
        # Of an enormous file the end is what people look for.
        start = max(self._offset, status.st_size - _MOST)
        file.seek(start)
        data = file.read(_MOST)
        whole = data.rfind(b"\n") + 1
        if whole:
            self._offset = start + whole
            file.seek(max(0, self._offset - _TAIL))
            self._tail = file.read(min(_TAIL, self._offset))
        return data[:whole].split(b"\n")[:-1], not same
