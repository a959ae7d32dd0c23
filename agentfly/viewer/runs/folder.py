"""The folder of a run: what kind of run it is, and where its trajectories and images are.

A quickstart has several files of trajectories: those of its training and of its evaluations. Each is a part of the run.
Files may appear while the run is shown, so the parts are looked for anew each time.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, image_folder
from agentfly.errors import ConfigError, printable
from agentfly.files import encodable

Kind = Literal["training", "evaluation", "quickstart", "trial", "chains", "generate", "director-generator"]

HOME = ".view"  # in a run's folder: what the viewer keeps there, all of which it can make again
_MARKS: tuple[tuple[str, Kind], ...] = (
    ("quickstart.json", "quickstart"),
    ("config.yaml", "training"),
    ("trial.json", "trial"),
    ("settings.json", "evaluation"),
    (FILE_NAME, "chains"),
    ("result.json", "generate"),
)
_FILES = (".jsonl", ".json")  # a run that is one file
_MOST_RECORDS = 1000  # of the newest
_PASSES = ("greedy", "sampled", "blanked")


@dataclass(frozen=True)
class Part:
    """One file of trajectories.

    Attributes:
        label: shown name; "" for the only part of a run.
        path: the file.
        images: folder of the images, which need not be there.
    """

    label: str
    path: Path
    images: Path


@dataclass(frozen=True)
class RunFolder:
    """A run on disk.

    Attributes:
        path: folder, or file of trajectories, or record of directors and generators.
        kind: of run.
        slug: the run's name in URLs, unique in one viewer.
    """

    path: Path
    kind: Kind
    slug: str

    @cached_property
    def _is_file(self) -> bool:
        # A folder may have such a name, too.
        return self.path.suffix in _FILES and not self.path.is_dir()

    @property
    def folder(self) -> Path:
        """Folder of the run; that of the file where a file of trajectories or a record was named."""
        return self.path.parent if self._is_file else self.path

    @property
    def name(self) -> str:
        """Shown name: the last two parts of the path."""
        return "/".join(self.path.parts[-2:])

    @property
    def training(self) -> Path | None:
        """Folder of the training part, with `config.yaml` and `metrics.jsonl`; None where nothing was trained."""
        if self.kind == "training":
            return self.folder
        return self.folder / "training" if self.kind == "quickstart" else None

    @property
    def systems(self) -> bool:
        """True for runs of image generation, which have no trajectories of an agent."""
        return self.kind in ("generate", "director-generator")

    def parts(self) -> tuple[Part, ...]:
        """Return the files of trajectories that are there now."""
        if self._is_file and self.path.suffix == ".jsonl":
            return (Part("", self.path, image_folder(self.path) or self.path.parent / IMAGES),)
        found = [("", self.folder / FILE_NAME)]
        if self.kind == "quickstart":
            passes = [(label, name) for label in ("warm_start", "trained") for name in _PASSES]
            found = [("training", self.folder / "training" / FILE_NAME)] + [
                (f"{label.replace('_', ' ')}, {name}", self.folder / "evaluation" / label / f"{name}.jsonl")
                for label, name in passes
            ]
        return tuple(
            Part(label, path, image_folder(path) or path.parent / IMAGES) for label, path in found if path.is_file()
        )

    def marks(self) -> tuple[Path, ...]:
        """Return the files beside the trajectories whose changes change a page; they need not be there."""
        names = ("summary.json", "trial.json", "config.yaml")
        metrics = () if self.training is None else (self.training / "metrics.jsonl",)
        return (*(self.folder / name for name in names), *metrics)

    @cached_property
    def home(self) -> Path:
        """Folder of the viewer's index and thumbnails: in the run's, or in a temporary one where that is read-only."""
        home = self.folder / (f"{HOME}-{self.path.stem}" if self._is_file else HOME)
        try:
            home.mkdir(exist_ok=True)
            # A link in a folder of somebody else's may lead to any folder of this person.
            if os.access(home, os.W_OK) and not home.is_symlink():
                return home
        except OSError:
            pass
        digest = hashlib.sha256(str(self.path).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        # Of this user alone: others must not put an index there.
        home = Path(tempfile.gettempdir()) / f"agentfly-view-{os.getuid()}" / digest
        home.parent.mkdir(exist_ok=True, mode=0o700)
        # Looked at before anything is made in it; a link has an owner of its own.
        if home.parent.is_symlink() or home.parent.stat().st_uid != os.getuid():
            raise ConfigError(f"{str(home.parent)!r} belongs to somebody else: remove it, or set TMPDIR")
        home.mkdir(exist_ok=True, mode=0o700)
        return home


def find_run(path: Path, slug: str) -> RunFolder:
    """Return the run of a folder or of a file of trajectories.

    Args:
        path: as given by the user.
        slug: see `RunFolder`.

    Raises:
        ConfigError: there is no run, and the message lists those in folders below; or its name is no text.
    """
    # One run has one path, or its ratings would be those of two: `..` is taken out, and links stay.
    path = Path(os.path.abspath(path))
    if encodable(str(path)) != str(path):
        raise ConfigError(f"{printable(str(path))!r} has a name that is no UTF-8: rename it")
    if path.is_file() and path.suffix == ".jsonl":
        return RunFolder(path, "chains", slug)
    if _is_studio_record(path):
        return RunFolder(path, "director-generator", slug)
    kind = kind_of(path)
    if kind is not None:
        return RunFolder(path, kind, slug)
    if not path.exists():
        raise ConfigError(f"there is no run at {str(path)!r}")
    below = sorted(str(child) for child in path.iterdir() if kind_of(child)) if path.is_dir() else []
    hint = f": name one of {', '.join(below[:5])}" if below else ": name the folder that a command wrote with --out"
    raise ConfigError(f"{str(path)!r} is no run{hint}")


def kind_of(folder: Path) -> Kind | None:
    """Return the kind of run that a folder has; None for none."""
    if not folder.is_dir():
        return None
    for name, kind in _MARKS:
        if (folder / name).is_file():
            return kind
    return "director-generator" if studio_records(folder) else None


def studio_records(folder: Path) -> list[Path]:
    """Return the records `RUN.json` of directors and generators in a folder, which several runs may share."""
    return [path for path in sorted(folder.glob("*.json"))[-_MOST_RECORDS:] if _is_studio_record(path)]


def _is_studio_record(path: Path) -> bool:
    """Return True if a file begins as such a record does: with the id, which is the file's name."""
    try:
        # A pipe would never begin.
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    name = re.escape(path.stem.encode("utf-8", "surrogateescape"))
    return re.match(rb'\s*\{\s*"id":\s*"' + name + rb'",\s*"prompt":', head) is not None
