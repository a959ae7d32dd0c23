"""A run on disk: `RUN.json` (the whole record, after every phase), `RUN.log` (previews), `RUN/` (the images)."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from PIL import Image

from agentfly.errors import ConfigError
from agentfly.files import write_text
from agentfly.images import save_image
from agentfly.redaction import LogFormatter
from agentfly.systems.director_generator.records import CallRecord, ImageRecord, PhaseRecord, RunRecord
from agentfly.systems.director_generator.run import Watcher
from agentfly.systems.director_generator.settings import slug

logger = logging.getLogger(__name__)

_PREVIEW = 200


def run_id(prompt: str) -> str:
    """Return a name that sorts by time and begins with the words of a prompt, since runs may share a folder."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{slug(prompt)[:30].strip('-') or 'run'}-{uuid4().hex[:6]}"


@dataclass
class RunFolder(Watcher):
    """A watcher that writes a run to disk while it goes on, and logs it.

    Attributes:
        folder: folder of the results; made where it is missing.
        run: name of the run.

    Raises:
        ConfigError: the folder cannot be written.
    """

    folder: Path
    run: str
    _handler: logging.Handler = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._handler = logging.FileHandler(self.folder / f"{self.run}.log", encoding="utf-8")
        except OSError as fault:
            raise ConfigError(
                f"cannot write to {str(self.folder)!r} ({fault.strerror or fault}): give another --output-dir"
            ) from None
        self._handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("agentfly").addHandler(self._handler)

    @property
    def result(self) -> Path:
        """The JSON file with the record."""
        return self.folder / f"{self.run}.json"

    def phase_begins(self, phase: PhaseRecord) -> None:
        """Log the phase."""
        logger.info("round %d, %s", phase.loop, phase.phase)

    def called(self, phase: PhaseRecord, call: CallRecord) -> None:
        """Log previews of the question and the reply."""
        end = f"failed: {call.error}" if call.error else f"reply: {_preview(call.reply)}"
        logger.log(
            logging.WARNING if call.error else logging.INFO,
            "round %d, %s: %s %s (%s via %s, %d images, %.1f s)\n  system: %s\n  user: %s\n  %s",
            *(phase.loop, phase.phase, call.role, call.agent, call.model, call.via, len(call.images), call.seconds),
            *(_preview(call.system), _preview(call.user), end),
        )

    def painted(self, phase: PhaseRecord, record: ImageRecord, image: Image.Image | None) -> None:
        """Write the image and log its file, or the reason that there is none."""
        if image is not None:
            mark = "_stand-in" if record.stand_in else ""
            name = f"{self.run}/loop{record.loop:02d}_{slug(record.generator)}{mark}.png"
            save_image(image, self.folder / name)
            record.file = name
        how = record.file or f"no image ({record.fault})"
        logger.info(
            "round %d, paint: %s, seed %d, by %s: %s",
            record.loop,
            record.generator,
            record.seed,
            record.engine,
            how,
        )

    def phase_ended(self, run: RunRecord) -> None:
        """Write the record so far, so that a killed run leaves its results."""
        write_text(self.result, json.dumps(run.to_dict(), ensure_ascii=False, indent=2) + "\n")

    def close(self) -> None:
        """Close the log."""
        logging.getLogger("agentfly").removeHandler(self._handler)
        self._handler.close()


def _preview(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _PREVIEW else f"{line[:_PREVIEW]}... ({len(line)} characters)"
