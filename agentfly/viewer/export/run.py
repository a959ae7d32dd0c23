"""`agentfly view RUN --export PATH`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from agentfly.errors import ConfigError
from agentfly.viewer.export.folder import write_folder
from agentfly.viewer.export.single import OnProgress, write_file
from agentfly.viewer.export.site import Site
from agentfly.viewer.opened import OpenRun
from agentfly.viewer.runs.folder import RunFolder
from agentfly.viewer.settings import ViewerSettings

MOST_IN_FILE, MOST_IN_FOLDER = 100, 1000  # chains


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file, or the first page of the folder.
        content: what is in it, in words.
        left_out: pages that are not in it, in words; "" for none.
        size: bytes of the file; of a folder, of all its files.
    """

    path: Path
    content: str
    left_out: str
    size: int


def export_run(
    run: RunFolder, out: Path, settings: ViewerSettings, on_progress: OnProgress, most: int | None = None
) -> Exported:
    """Write the pages of a run.

    Args:
        run: the run.
        out: file that ends in .html, or folder. What is there is replaced if it is an export.
        settings: of the viewer.
        on_progress: called with "pages" or "images" and the number of them, done and in total.
        most: chains; by default 100 in a file, 1,000 in a folder.

    Raises:
        ConfigError: the place holds something else, or the run cannot be read.
    """
    out, whole_file = out.absolute(), out.suffix.lower() in (".html", ".htm")
    if out == run.folder or out in run.folder.parents:
        raise ConfigError(f"{str(out)!r} holds the run itself: give another place")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="agentfly-export-") as folder:
        site = Site(OpenRun(run), settings, most or (MOST_IN_FILE if whole_file else MOST_IN_FOLDER), Path(folder))
        left_out = (write_file if whole_file else write_folder)(site, out, on_progress)
    files = [out] if whole_file else [path for path in out.rglob("*") if path.is_file()]
    first = out if whole_file else out / "index.html"
    return Exported(first, site.note, left_out, sum(path.stat().st_size for path in files))
