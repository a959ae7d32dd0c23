"""The tool cache on disk: what is found again, what is removed, and what several processes may do to it at once."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.images.store import image_hash
from agentfly.vision.tool_cache import CacheStats, Entry, ToolCache, cache_key
from tests import programs
from tests.unit.images.damage import DAMAGE

ROOT = Path(__file__).resolve().parents[3]

KeyParts = tuple[str, str, str, Mapping[str, Any], tuple[Image.Image, ...]]


def make_image(value: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0], *({"L": (), "RGB": (3,), "RGBA": (4,)}[mode]))
    return Image.fromarray(np.random.default_rng(value).integers(0, 256, shape, dtype=np.uint8))


def key(number: int) -> str:
    return cache_key("engine", "1", "edit", {"seed": number}, ())


def files(cache: ToolCache) -> list[str]:
    return sorted(path.name for path in cache.root.glob("??/*"))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_result_comes_back_equal_from_memory_and_from_disk(tmp_path: Path, mode: str) -> None:
    cache = ToolCache(tmp_path)
    cache.put(key(1), Entry((make_image(1, mode=mode), make_image(2)), {"objects": [1, "ä"], "best": None}))
    for found in (cache.get(key(1)), ToolCache(tmp_path).get(key(1))):
        assert found is not None
        assert [(i.mode, i.tobytes()) for i in found.images] == [
            (i.mode, i.tobytes()) for i in (make_image(1, mode=mode), make_image(2))
        ]
        assert found.data == {"objects": [1, "ä"], "best": None}
    assert ToolCache(tmp_path).get(key(2)) is None


def test_changing_what_was_given_or_got_does_not_change_what_is_kept(tmp_path: Path) -> None:
    cache, given = ToolCache(tmp_path), make_image(1)
    cache.put(key(1), Entry((given,)))
    given.putpixel((0, 0), (0, 0, 0))
    first = cache.get(key(1))
    assert first is not None
    first.images[0].putpixel((0, 0), (9, 9, 9))
    second = cache.get(key(1))
    assert second is not None
    assert second.images[0].tobytes() == make_image(1).tobytes()


def test_everything_that_decides_a_result_is_in_its_key() -> None:
    usual: KeyParts = ("engine", "1", "edit", {"prompt": "red", "seed": 1}, (make_image(1), make_image(2)))
    others: list[KeyParts] = [
        ("other", *usual[1:]),
        (usual[0], "2", *usual[2:]),
        (*usual[:2], "inpaint", *usual[3:]),
        (*usual[:3], {"prompt": "red", "seed": 2}, usual[4]),
        (*usual[:3], {"prompt": "red", "seed": None}, usual[4]),
        (*usual[:4], (make_image(2), make_image(1))),
        (*usual[:4], (make_image(1),)),
    ]
    keys = {cache_key(*parts) for parts in (usual, *others)}
    assert len(keys) == 1 + len(others)
    assert cache_key(*usual[:3], {"seed": 1, "prompt": "red"}, usual[4]) == cache_key(*usual)


def test_images_of_equal_bytes_and_other_shape_have_other_hashes() -> None:
    flat = bytes(24)
    hashes = {
        image_hash(Image.frombytes(mode, size, flat[: size[0] * size[1] * n]))
        for mode, size, n in (("L", (6, 4), 1), ("L", (4, 6), 1), ("RGB", (4, 2), 3), ("RGBA", (3, 2), 4))
    }
    assert len(hashes) == 4


def test_what_was_not_used_for_longest_is_removed_first(tmp_path: Path) -> None:
    cache = ToolCache(tmp_path / "probe")
    cache.put(key(0), Entry((make_image(0),)))
    sizes = [path.stat().st_size for path in cache.root.glob("??/*")]
    cache = ToolCache(tmp_path / "real", max_bytes=sum(sizes) * 4)
    now = time.time()
    for number in range(4):
        cache.put(key(number), Entry((make_image(number),)))
        os.utime(cache._path(key(number)), (now - 100 + number,) * 2)
    assert cache.get(key(0)) is not None
    cache.put(key(4), Entry((make_image(4),)))
    cache.evict()
    left = [number for number in range(5) if ToolCache(tmp_path / "real").get(key(number)) is not None]
    assert left == [0, 3, 4]
    assert cache.stats.evicted == 2
    assert cache.get(key(1)) is None


def test_the_folder_stays_near_its_bound_without_being_asked(tmp_path: Path) -> None:
    cache = ToolCache(tmp_path, max_bytes=100_000)
    for number in range(60):
        cache.put(key(number), Entry((make_image(number),)))
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) < 100_000 * 17 / 16 + 5000
    assert cache.get(key(59)) is not None


def test_memory_is_bounded_and_the_rest_comes_from_disk(tmp_path: Path) -> None:
    one = 40 * 30 * 3
    cache = ToolCache(tmp_path, memory_bytes=2 * one)
    for number in range(4):
        cache.put(key(number), Entry((make_image(number),)))
    assert len(cache._memory) == 2
    assert all(cache.get(key(number)) is not None for number in range(4))
    assert cache._held == 2 * one
    cache.put(key(9), Entry((make_image(9, (400, 300)),)))
    assert cache._held == 2 * one


def rewritten(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


BROKEN: dict[str, Callable[[Path, Path], object]] = {
    "image cut": lambda meta, image: image.write_bytes(image.read_bytes()[:20]),
    "image flipped": lambda meta, image: image.write_bytes(image.read_bytes()[:-40] + b"x" + image.read_bytes()[-39:]),
    "image too long": lambda meta, image: image.write_bytes(b"x" + image.read_bytes()),
    "image exchanged": lambda meta, image: make_image(2).save(image, "PNG"),
    "image of another format": lambda meta, image: make_image(1).save(image, "JPEG"),
    "no image": lambda meta, image: image.unlink(),
    "json cut": lambda meta, image: meta.write_bytes(meta.read_bytes()[:20]),
    "no utf-8": lambda meta, image: meta.write_bytes(b"\xff\xfe{}"),
    "too deep": lambda meta, image: meta.write_text("[" * 100_000),
    "a list": lambda meta, image: meta.write_text("[]"),
    "null": lambda meta, image: meta.write_text("null"),
    "no keys": lambda meta, image: meta.write_text("{}"),
    "a count in words": lambda meta, image: rewritten(meta, images="one"),
    "too many images": lambda meta, image: rewritten(meta, images=10**12),
    "no images": lambda meta, image: rewritten(meta, images=0),
    "files of another kind": lambda meta, image: rewritten(meta, files=3),
    "a file of another kind": lambda meta, image: rewritten(meta, files=[3]),
    "a mode of another kind": lambda meta, image: rewritten(meta, files=[{"mode": "P", "size": [40, 30], "crc32": 0}]),
    "another size": lambda meta, image: rewritten(meta, files=[{"mode": "RGB", "size": [-40, -30], "crc32": 0}]),
    "an endless size": lambda meta, image: rewritten(meta, files=[{"mode": "RGB", "size": [10**9, 10**9], "crc32": 0}]),
    "data of another kind": lambda meta, image: rewritten(meta, data="x"),
    "a folder": lambda meta, image: DAMAGE["a folder"](meta),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_result_is_a_miss_and_can_be_written_again(tmp_path: Path, damage: str, mode: str) -> None:
    ToolCache(tmp_path).put(key(1), Entry((make_image(1, mode=mode),)))
    [meta], [image] = tmp_path.glob("??/*.json"), tmp_path.glob("??/*.0.*")
    BROKEN[damage](meta, image)
    cache = ToolCache(tmp_path)
    assert cache.get(key(1)) is None
    if damage == "a folder":
        meta.rmdir()
    cache.put(key(1), Entry((make_image(1, mode=mode),)))
    assert ToolCache(tmp_path).get(key(1)) is not None


@pytest.mark.parametrize("hashes", [None, [image_hash(make_image(1))]])
def test_a_result_of_version_0_1_is_still_found_and_compared(tmp_path: Path, hashes: list[str] | None) -> None:
    """It had PNG files alone, and at first no hashes."""

    def write(image: Image.Image) -> None:
        (tmp_path / key(1)[:2]).mkdir(exist_ok=True)
        image.save(tmp_path / key(1)[:2] / f"{key(1)}.0.png")
        meta = {"images": 1, "data": {}, **({} if hashes is None else {"hashes": hashes})}
        (tmp_path / key(1)[:2] / f"{key(1)}.json").write_text(json.dumps(meta))

    write(make_image(1))
    found = ToolCache(tmp_path).get(key(1))
    assert found is not None
    assert found.images[0].tobytes() == make_image(1).tobytes()
    write(make_image(2))
    assert (ToolCache(tmp_path).get(key(1)) is None) is (hashes is not None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_cannot_be_written_is_reported_once_and_memory_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache, other = ToolCache(tmp_path), ToolCache(tmp_path)
    cache.put(key(0), Entry((make_image(0),)))

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path))

    for owner, name in ((Path, "write_bytes"), (Path, "mkdir"), (Path, "unlink"), (os, "utime")):
        monkeypatch.setattr(owner, name, refuse)
    for count in range(1, 4):
        cache.put(key(count), Entry((make_image(count),)))
        assert cache.get(key(count)) is not None
    assert other.get(key(0)) is not None
    assert caplog.text.count("calls go on without it") == 1
    assert str(tmp_path) in caplog.text
    monkeypatch.undo()
    cache.put(key(4), Entry((make_image(4),)))
    assert ToolCache(tmp_path).get(key(4)) is not None
    assert cache.stats.stored == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_a_full_disk_does_not_take_is_no_reason_to_stop(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    cache = ToolCache(tmp_path / "cache")
    assert "calls go on without it" in caplog.text
    monkeypatch.undo()
    cache.put(key(1), Entry((make_image(1),)))
    assert ToolCache(tmp_path / "cache").get(key(1)) is not None


def test_a_folder_that_is_a_file_is_the_fault_of_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        ToolCache(tmp_path / "file" / "cache")


def test_half_a_surrogate_pair_has_a_key_and_can_be_kept(tmp_path: Path) -> None:
    name = cache_key("engine", "1", "detect", {"prompt": "cat \ud800"}, ())
    ToolCache(tmp_path).put(name, Entry((), {"label": "\ud800"}))
    found = ToolCache(tmp_path).get(name)
    assert found is not None
    assert found.data == {"label": "\ud800"}


def test_leftovers_of_killed_processes_are_removed_when_they_are_old(tmp_path: Path) -> None:
    cache = ToolCache(tmp_path)
    cache.put(key(1), Entry((make_image(1),)))
    folder = next(tmp_path.glob("??"))
    for name, age in (("a.0.png", 3600), ("b.0.png", 5), ("c.json.1-1.part", 3600), ("d.json.1-1.part", 5)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)
    cache.evict()
    assert files(cache) == sorted(["b.0.png", "d.json.1-1.part", f"{key(1)}.0.pixels", f"{key(1)}.json"])


def test_hit_rate_counts_what_needed_no_work() -> None:
    assert CacheStats().hit_rate == 0.0
    stats = CacheStats(hits=2, shared=1, misses=1, skipped=5)
    assert stats.hit_rate == 0.75


WRITER = """
import sys
from agentfly.vision.tool_cache import Entry, ToolCache
from tests.unit.vision.test_tool_cache import key, make_image
cache = ToolCache(sys.argv[1], max_bytes=60_000, memory_bytes=0)
wrong = 0
for turn in range(150):
    number = turn % 25
    cache.put(key(number), Entry((make_image(number), make_image(number + 100)), {"n": number}))
    for other in (number, (number * 7) % 25):
        found = cache.get(key(other))
        if found is not None:
            expected = (make_image(other).tobytes(), make_image(other + 100).tobytes())
            wrong += (found.data["n"], *(i.tobytes() for i in found.images)) != (other, *expected)
print(wrong, cache.stats.evicted > 0)
"""


def test_processes_that_write_read_and_remove_the_same_results_never_see_half_of_one(tmp_path: Path) -> None:
    words = ("-c", WRITER, str(tmp_path))
    with programs.started(*words, cwd=ROOT) as one, programs.started(*words, cwd=ROOT) as other:
        for process in (one, other):
            assert process.wait(60) == 0, process.stderr.read_text()
            assert process.stdout.read_text() == "0 True\n"


def test_half_of_a_surrogate_pair_is_cached_like_any_text(tmp_path: Path) -> None:
    named = cache_key("engine", "1", "edit", {"prompt": "a \ud83d"}, ())
    assert named != cache_key("engine", "1", "edit", {"prompt": "a ?"}, ())
    ToolCache(tmp_path).put(named, Entry((), {"label": "a \ud83d"}))
    found = ToolCache(tmp_path).get(named)
    assert found is not None
    assert found.data == {"label": "a \ud83d"}
