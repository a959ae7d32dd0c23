"""Images written to files: the suffix decides, transparency survives where the format has it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from agentfly.errors import ImageError
from agentfly.images import load_image, save_image


@pytest.mark.parametrize(
    ("name", "kind"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.png", "PNG"), ("a.webp", "WEBP")]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_every_mode_goes_into_every_format(name: str, kind: str, mode: str, tmp_path: Path) -> None:
    path = save_image(Image.new("RGB", (9, 7), "red").convert(mode), tmp_path / "made" / "on the way" / name)
    with Image.open(path) as file:
        assert (file.format, file.size) == (kind, (9, 7))


def test_transparency_becomes_white_where_the_format_has_none(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    with Image.open(save_image(clear, tmp_path / "a.jpg")) as file:
        assert file.getpixel((4, 4)) == (255, 255, 255)
    with Image.open(save_image(clear, tmp_path / "a.webp")) as file:
        assert file.mode == "RGBA"
    assert clear.getpixel((4, 4)) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["a.tif", "a", "a.png.txt"])
def test_an_unknown_suffix_names_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"images are saved as \.png, \.jpg, \.jpeg, \.webp"):
        save_image(Image.new("L", (2, 2)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match=r"cannot write .*a\.png"):
        save_image(Image.new("L", (2, 2)), tmp_path / "file" / "a.png")


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EACCES, errno.EPERM])
def test_a_file_that_cannot_be_replaced_is_written(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is mounted alone into a container."""
    path = save_image(Image.new("RGB", (8, 8), "red"), tmp_path / "a.png")

    def refuse(partial: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", refuse)
    save_image(Image.new("RGB", (8, 8), "blue"), path)
    assert load_image(path).getpixel((0, 0)) == (0, 0, 255)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_full_disk_leaves_the_earlier_file_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_image(Image.new("RGB", (8, 8), "red"), tmp_path / name)
    before = path.read_bytes()

    def full(image: Image.Image, target: Path, *arguments: object, **named: object) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ImageError, match=f"cannot write '{path}': No space left"):
        save_image(Image.new("RGB", (8, 8), "blue"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "side"), [("a.webp", 16_384), ("a.jpg", 65_536)])
def test_a_side_that_a_format_does_not_take_is_an_error_with_the_path(name: str, side: int, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot write .*a\."):
        save_image(Image.new("L", (side, 1)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "real" / "file.png")
    save_image(Image.new("RGB", (8, 8), "red"), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real" / "file.png").is_file()
