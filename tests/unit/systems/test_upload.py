"""Uploads: the place and the address that everybody sees, without secrets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from agentfly.systems.upload import UploadError, publish, upload


async def test_the_password_of_a_place_is_neither_shown_nor_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str, path: str) -> None:
        raise OSError(f"login failed: {path}")

    place = "ftp://me:pa55word@h/x/"
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda target: (SimpleNamespace(put_file=refuse), target))
    with pytest.raises(UploadError, match=r"cannot upload to ftp://\*\*\*@h/x/run-7-1.png: login failed") as caught:
        await upload(Path("run-7/1.png"), place)
    assert "pa55word" not in str(caught.value)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda target: (SimpleNamespace(put_file=lambda *_: None), target))
    assert await upload(Path("run-7/1.png"), place) == "ftp://***@h/x/run-7-1.png"


async def test_a_bucket_is_a_folder_whatever_its_name_ends_in(monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []
    # It has no `makedirs`: an object store would be asked to make the bucket.
    bucket = SimpleNamespace(put_file=lambda _, path: put.append(path))
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda target: (bucket, target))
    for place in ("s3://shop.png", "s3://shop/cars/", "s3://shop/a.WEBP"):
        await upload(Path("run-7/iteration_1.png"), place)
    assert put == ["s3://shop.png/run-7-iteration_1.png", "s3://shop/cars/run-7-iteration_1.png", "s3://shop/a.WEBP"]


async def test_the_public_address_has_the_name_of_the_file_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run-7" / "iteration_1.png"
    file.parent.mkdir()
    file.write_bytes(b"image")
    read: list[str] = []

    def fetch(url: str, **_: object) -> bytes:
        read.append(url)
        return b"image"

    monkeypatch.setattr("agentfly.systems.upload.fetch", fetch)
    place = f"file://{tmp_path}/shop"
    for public in ("https://cdn.example/shop", "https://cdn.example/shop/", "https://cdn.example/x.png?key=sk-1"):
        stored, seen = await publish(file, place, public)
        assert stored == f"file://{tmp_path}/shop/run-7-iteration_1.png"
        assert "sk-1" not in seen
    named = "https://cdn.example/shop/run-7-iteration_1.png"
    assert read == [named, named, "https://cdn.example/x.png?key=sk-1"]
    assert await publish(file, place, None) == (stored, stored)
    assert len(read) == 3
