"""Addresses of images: none for an image that is not there."""

from __future__ import annotations

from pathlib import Path

from agentfly.viewer.links import ServerLinks
from tests.unit.viewer.small_runs import view_of, write_run


def test_only_images_that_were_kept_have_addresses(tmp_path: Path) -> None:
    run = view_of(write_run(tmp_path / "run", [[1]]))["run"]
    row = run.index.row(1)
    links = run.links()
    assert row.source is not None
    assert links.thumb(row.part, row.source) == f"/runs/run/thumbs/{row.part}/{row.source}.webp"
    assert links.image(row.part, row.source).endswith(f"{row.source}.png")
    for part, handle in ((row.part, "img_000000000000"), (row.part + 1, row.source), (row.part, "../images/x")):
        assert (links.image(part, handle), links.thumb(part, handle)) == ("", "")
    # Without the folders of a run nobody knows which images there are.
    assert ServerLinks("run").thumb(row.part, row.source) == ""
