"""Engines behind the cache: what is worked on once, what is never kept, and who stops what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.vision.base import Detection, Detections, EditParams, Engines, InpaintParams, MultiImageEditor
from agentfly.vision.cached_engines import CachedEditor, cache_stats, cached
from agentfly.vision.detection.boxes import box_mask
from agentfly.vision.tool_cache import CacheStats, Entry, ToolCache, watch_cache


class Work:
    """Three engines in one that count their calls; can be held, and can fail."""

    def __init__(self, name: str = "model") -> None:
        self.name = name
        self.calls: list[Any] = []
        self.cancelled = 0
        self.go = asyncio.Event()
        self.go.set()
        self.fault: Exception | None = None

    async def _work(self, *what: Any) -> None:
        self.calls.append(what)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fault is not None:
            raise self.fault

    async def detect(self, image: Image.Image, prompt: str, **thresholds: float) -> Sequence[Detection]:
        await self._work(prompt, thresholds)
        outline = Image.linear_gradient("L").resize(image.size)
        found = [
            Detection("cat", 0.875, (1, 2, 30, 40), box_mask((1, 2, 30, 40), image.size)),
            Detection("dog", 0.5, (5, 5, 20, 20), outline),
        ]
        return Detections(found, best_rejected=0.25)

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        await self._work(prompt, params)
        return Image.new("RGB", image.size, (len(self.calls), 0, 0))

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        await self._work(instruction, params)
        return Image.new("RGB", image.size, (0, len(self.calls), 0))

    def behind(self, cache: ToolCache, **options: Any) -> Engines:
        return cached(Engines(self, self, self), cache, **options)


@pytest.fixture
def cache(tmp_path: Path) -> ToolCache:
    return ToolCache(tmp_path)


async def test_a_mask_of_another_mode_becomes_grey_at_once(cache: ToolCache, noise: Image.Image) -> None:
    class Cutter(Work):
        async def detect(self, image: Image.Image, prompt: str, **thresholds: float) -> Detections:
            mask = Image.linear_gradient("L").resize(image.size).convert("1")
            return Detections([Detection("cat", 0.5, (1, 2, 30, 40), mask)], best_rejected=None)

    for _ in range(2):
        (found,) = await Cutter().behind(cache).detector.detect(noise, "cat", box_threshold=0.3, text_threshold=0.2)
        assert found.mask.mode == "L"


async def test_detections_come_back_as_they_were(cache: ToolCache, tmp_path: Path, noise: Image.Image) -> None:
    work = Work()
    first, again, elsewhere = [
        await work.behind(store).detector.detect(noise, "cat", box_threshold=0.3, text_threshold=0.2)
        for store in (cache, cache, ToolCache(tmp_path))
    ]
    assert len(work.calls) == 1
    for found in (first, again, elsewhere):
        assert isinstance(found, Detections)
        assert found.best_rejected == 0.25
        assert [(d.label, d.score, d.box) for d in found] == [
            ("cat", 0.875, (1, 2, 30, 40)),
            ("dog", 0.5, (5, 5, 20, 20)),
        ]
        assert found[0].mask.tobytes() == box_mask((1, 2, 30, 40), noise.size).tobytes()
        assert found[1].mask.tobytes() == Image.linear_gradient("L").resize(noise.size).tobytes()
    # A mask that is its box is not written as an image.
    assert len(list(tmp_path.glob("??/*.png"))) == 1


WRONG: list[dict[str, Any]] = [
    {},
    {"objects": None, "best_rejected": None},
    {"objects": ["cat"], "best_rejected": None},
    {"objects": [{"label": "cat"}], "best_rejected": None},
    {"objects": [{"label": "cat", "score": 0.5, "box": [1, 2], "mask": None}], "best_rejected": None},
    {"objects": [{"label": "cat", "score": 0.5, "box": [1, 2, 3, "x"], "mask": None}], "best_rejected": None},
    {"objects": [{"label": "cat", "score": 0.5, "box": [1, 2, 30, 40], "mask": 7}], "best_rejected": None},
    {"objects": [{"label": "cat", "score": 0.5, "box": [1, 2, 30, 40], "mask": 0}], "best_rejected": None},
    {"objects": [{"label": "cat", "score": "high", "box": [1, 2, 30, 40], "mask": None}], "best_rejected": None},
    {"objects": []},
]


@pytest.mark.parametrize("data", WRONG)
@pytest.mark.parametrize("image", [None, Image.new("RGB", (3, 3))])
async def test_a_kept_detection_of_another_shape_is_a_miss(
    data: dict[str, Any], image: Image.Image | None, cache: ToolCache, tmp_path: Path, noise: Image.Image
) -> None:
    work = Work()
    detect = work.behind(cache).detector.detect
    await detect(noise, "cat", box_threshold=0.3, text_threshold=0.2)
    [file] = tmp_path.glob("??/*.json")
    cache.put(file.stem, Entry((image,) if image else (), data))
    found = await work.behind(ToolCache(tmp_path)).detector.detect(noise, "cat", box_threshold=0.3, text_threshold=0.2)
    assert [one.label for one in found] == ["cat", "dog"]
    assert len(work.calls) == 2
    await detect(noise, "cat", box_threshold=0.3, text_threshold=0.2)


async def test_a_kept_edit_without_an_image_is_a_miss(cache: ToolCache, tmp_path: Path, noise: Image.Image) -> None:
    work = Work()
    for expected in (1, 2):
        await work.behind(cache).editor.edit(noise, "red", EditParams(seed=1))
        assert len(work.calls) == expected
        [file] = tmp_path.glob("??/*.json")
        cache.put(file.stem, Entry())


async def test_other_thresholds_are_another_detection(cache: ToolCache, noise: Image.Image) -> None:
    work = Work()
    detector = work.behind(cache).detector
    for box, text in ((0.3, 0.2), (0.4, 0.2), (0.3, 0.1), (0.3, 0.2)):
        await detector.detect(noise, "cat", box_threshold=box, text_threshold=text)
    assert len(work.calls) == 3


async def test_a_seed_makes_a_call_cacheable_and_each_parameter_counts(
    cache: ToolCache, noise: Image.Image, soft_mask: Image.Image
) -> None:
    work = Work()
    engines = work.behind(cache)
    usual = InpaintParams("blur", 7.0, 20, 0.8, 1)
    others = [
        InpaintParams("blur", 7.0, 20, 0.8, 2),
        InpaintParams(None, 7.0, 20, 0.8, 1),
        InpaintParams("blur", 6.0, 20, 0.8, 1),
        InpaintParams("blur", 7.0, 21, 0.8, 1),
        InpaintParams("blur", 7.0, 20, 0.7, 1),
    ]
    images = [await engines.inpainter.inpaint(noise, soft_mask, "cat", p) for p in (usual, *others, usual, *others)]
    assert len(work.calls) == 6
    assert [p.tobytes() for p in images[:6]] == [p.tobytes() for p in images[6:]]
    await engines.inpainter.inpaint(noise, noise.convert("L"), "cat", usual)
    await engines.inpainter.inpaint(noise.rotate(180), soft_mask, "cat", usual)
    await engines.inpainter.inpaint(noise, soft_mask, "dog", usual)
    await engines.editor.edit(noise, "cat", EditParams(seed=1))
    assert len(work.calls) == 10
    assert (cache.stats.hits, cache.stats.misses, cache.stats.hit_rate) == (6, 10, 6 / 16)


async def test_calls_without_a_seed_are_kept_only_when_told_to(cache: ToolCache, noise: Image.Image) -> None:
    work = Work()
    plain, told = work.behind(cache).editor, work.behind(cache, unseeded=True).editor
    images = [await engine.edit(noise, "red", EditParams()) for engine in (plain, plain, told, told, plain)]
    assert len({p.tobytes() for p in images}) == 4
    assert images[2].tobytes() == images[3].tobytes()
    assert cache.stats.skipped == 3


async def test_a_deterministic_engine_is_kept_whatever_the_seed(cache: ToolCache, noise: Image.Image) -> None:
    work = Work("classical")
    for seed in (None, 1, 2):
        await work.behind(cache).editor.edit(noise, "red", EditParams(seed=seed))
    assert len(work.calls) == 1


async def test_another_version_of_an_engine_has_results_of_its_own(cache: ToolCache, noise: Image.Image) -> None:
    work = Work()
    for version in ("1", "2", "1"):
        await work.behind(cache, versions={"edit": version}).editor.edit(noise, "red", EditParams(seed=1))
    assert len(work.calls) == 2


async def test_faults_are_not_kept(cache: ToolCache, noise: Image.Image) -> None:
    work = Work()
    editor = work.behind(cache).editor
    work.fault = ToolError("out of memory")
    with pytest.raises(ToolError, match="out of memory"):
        await editor.edit(noise, "red", EditParams(seed=1))
    work.fault = None
    assert (await editor.edit(noise, "red", EditParams(seed=1))).getpixel((0, 0)) == (0, 2, 0)


async def until(done: Callable[[], bool]) -> None:
    """Let the event loop run until something is so."""

    async def wait() -> None:
        while not done():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 10)


async def test_equal_calls_of_one_moment_work_once(cache: ToolCache, noise: Image.Image) -> None:
    work = Work()
    editor = work.behind(cache).editor
    work.go.clear()
    tasks = [asyncio.create_task(editor.edit(noise, "red", EditParams(seed=1))) for _ in range(5)]
    await until(lambda: cache.stats.shared == 4 and len(work.calls) == 1)
    work.go.set()
    images = await asyncio.gather(*tasks)
    assert len(work.calls) == 1
    assert len({image.tobytes() for image in images}) == 1
    images[0].putpixel((0, 0), (9, 9, 9))
    assert images[1].getpixel((0, 0)) == (0, 1, 0)
    assert cache.stats.hit_rate == 0.8


async def test_work_goes_on_until_the_last_who_waits_has_left(cache: ToolCache, noise: Image.Image) -> None:
    work = Work()
    editor = work.behind(cache).editor
    work.go.clear()
    tasks = [asyncio.create_task(editor.edit(noise, "red", EditParams(seed=1))) for _ in range(3)]
    await until(lambda: cache.stats.shared == 2 and len(work.calls) == 1)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    assert work.cancelled == 0
    for task in tasks[1:]:
        task.cancel()
    await asyncio.wait(tasks)
    await until(lambda: work.cancelled == 1)
    work.go.set()
    assert (await editor.edit(noise, "red", EditParams(seed=1))).getpixel((0, 0)) == (0, 2, 0)


def test_equal_calls_in_two_event_loops_do_not_wait_for_each_other(cache: ToolCache, noise: Image.Image) -> None:
    async def edit() -> Image.Image:
        work = Work()
        return await work.behind(cache, unseeded=False).editor.edit(noise, "red", EditParams(seed=1))

    assert asyncio.run(edit()).tobytes() == asyncio.run(edit()).tobytes()


async def test_hits_can_be_read_from_the_engines_step_by_step(cache: ToolCache, noise: Image.Image) -> None:
    engines = Work().behind(cache)
    before = cache_stats(engines)
    assert before == CacheStats()
    for seed in (1, 1, 2, 1):
        await engines.editor.edit(noise, "x", EditParams(seed=seed))
    first = cache_stats(engines)
    assert first is not None
    await engines.editor.edit(noise, "x", EditParams(seed=2))
    after = cache_stats(engines)
    assert after is not None
    assert (first.hits, first.misses, first.hit_rate) == (2, 2, 0.5)
    assert (after.hits, after.misses, after.hit_rate) == (3, 2, 0.6)
    assert cache_stats(Engines(Work(), Work(), Work())) is None


async def test_names_are_those_of_the_engines_and_the_cache_is_at_hand(cache: ToolCache) -> None:
    engines = Work("model-1").behind(cache)
    assert {engines.detector.name, engines.inpainter.name, engines.editor.name} == {"model-1"}
    assert isinstance(engines.editor, CachedEditor)
    assert engines.editor.cache is cache


class Several(Work):
    """One that takes references."""

    max_images = 3

    async def edit_images(self, images: Sequence[Image.Image], instruction: str, params: EditParams) -> Image.Image:
        await self._work(instruction, params, len(images))
        return Image.new("RGB", images[0].size, (0, 0, len(self.calls)))


async def test_all_images_of_a_call_and_their_order_are_in_the_key(cache: ToolCache, noise: Image.Image) -> None:
    work, params = Several(), EditParams(seed=1)
    editor = work.behind(cache).editor
    assert isinstance(editor, MultiImageEditor)
    assert editor.max_images == 3
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    asked = ([noise, red, blue], [noise, blue, red], [noise, red], [red, noise], [noise])
    made = [await editor.edit_images(images, "hat", params) for images in asked]
    again = [await editor.edit_images(images, "hat", params) for images in asked]
    assert len(work.calls) == len(asked)
    assert [image.tobytes() for image in again] == [image.tobytes() for image in made]
    # One image is the same call as an ordinary edit.
    assert (await editor.edit(noise, "hat", params)).tobytes() == made[-1].tobytes()
    assert len(work.calls) == len(asked)


async def test_a_refusal_of_several_images_is_not_kept(cache: ToolCache, noise: Image.Image) -> None:
    editor = Work().behind(cache).editor
    assert isinstance(editor, MultiImageEditor)
    assert editor.max_images == 1
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="model takes one; give one image"):
            await editor.edit_images([noise, noise], "hat", EditParams(seed=1))
    assert cache.stats.stored == 0


async def test_each_of_many_calls_knows_if_its_own_result_came_from_the_cache(
    cache: ToolCache, noise: Image.Image
) -> None:
    work = Work()
    editor = work.behind(cache).editor
    editing = EditParams(seed=1)
    await editor.edit(noise, "known", editing)
    work.go.clear()

    async def call(prompt: str) -> bool:
        with watch_cache() as use:
            await asyncio.create_task(editor.edit(noise, prompt, editing))
        return use.used

    calls = [asyncio.create_task(call(prompt)) for prompt in ["known", "new", "other", "new"] * 8]
    while cache.stats.misses < 3 or cache.stats.shared < 22:
        await asyncio.sleep(0)
    work.go.set()
    found = await asyncio.gather(*calls)
    assert [sum(found[place::4]) for place in (0, 2)] == [8, 7]
    assert sum(found[1::4]) + sum(found[3::4]) == 15  # one of them did the work


async def test_a_shared_call_that_fails_has_no_result_from_the_cache(cache: ToolCache, noise: Image.Image) -> None:
    work = Work()
    work.fault = ToolError("no")
    work.go.clear()
    editor = work.behind(cache).editor

    async def call() -> bool:
        with watch_cache() as use, pytest.raises(ToolError):
            await editor.edit(noise, "x", EditParams(seed=1))
        return use.used

    calls = [asyncio.create_task(call()) for _ in range(2)]
    while not cache.stats.shared:
        await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(*calls) == [False, False]
