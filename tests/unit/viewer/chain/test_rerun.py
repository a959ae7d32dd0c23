"""Recorded calls are run again by this package's tools, and never by what a run folder names."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
from PIL import Image

from agentfly.agents.trajectory import ToolRecord, Trajectory
from agentfly.aio import TimeLimitExceeded
from agentfly.errors import ConfigError
from agentfly.images import ImageStore
from agentfly.tools import tool
from agentfly.viewer.chain.rerun import Busy, Rerunner, choose_engines, names_before
from agentfly.viewer.chain.setup import RunSetup
from agentfly.viewer.settings import ViewerSettings
from tests.unit.viewer.chain.lines import edit, picture, trajectory

CLASSICAL = RunSetup(engines="classical")


@pytest.fixture
def store() -> ImageStore:
    return ImageStore()


def cropped(store: ImageStore, **changes: object) -> Trajectory:
    """Return a chain whose one call crops its image, with the recorded result that the tool gives."""
    source = store.put(picture())
    result = store.put(picture().crop((0, 0, 42, 42)))
    record = ToolRecord("corner", {"image": "img_1"}, 0.1, data={"source": source}, images=(result,))
    names = {"img_1": source, "img_2": result}
    return trajectory(store, [[replace(record, **changes)]], names=names)  # type: ignore[arg-type]


@tool
def corner(image: Image.Image) -> Image.Image:
    """Return the upper left quarter of an image."""
    return image.crop((0, 0, image.width // 2, image.height // 2))


@tool
async def stamp(image_id: str) -> str:
    """Wait for longer than anybody does.

    Args:
        image_id: an image.
    """
    await asyncio.sleep(60)
    return "done"


def settings(**changes: object) -> ViewerSettings:
    """Return settings of a viewer that knows the tools above, too."""
    return ViewerSettings(**{"tools": (f"{__name__}:corner", f"{__name__}:stamp"), **changes})


async def test_an_equal_image_is_found_equal(store: ImageStore) -> None:
    found = await Rerunner(settings()).call(cropped(store), 1, 1, store, CLASSICAL)
    assert found.equal
    assert "pixel by pixel" in found.words
    assert [image.equal for image in found.images] == [True]


async def test_another_image_is_measured_and_sent(store: ImageStore) -> None:
    other = store.put(picture("blue").crop((0, 0, 42, 42)))
    found = await Rerunner(settings()).call(cropped(store, images=(other,)), 1, 1, store, CLASSICAL)
    (image,) = found.images
    assert not found.equal
    assert image.max == 255
    assert 0 < (image.share or 0) < 1
    assert image.image.startswith("data:image/png;base64,")


async def test_a_refusal_is_compared_by_its_words(store: ImageStore) -> None:
    rerunner = Rerunner(settings())
    gone = cropped(store, arguments={"image": "img_9"}, images=(), data={}, error="refused")
    found = await rerunner.call(gone, 1, 1, store, CLASSICAL)
    assert not found.equal
    assert "refused now" in found.words
    assert "img_9" in found.words
    works = cropped(store, error="it did not work", images=())
    assert "It works now" in (await rerunner.call(works, 1, 1, store, CLASSICAL)).words


async def test_the_images_of_a_run_are_not_touched(store: ImageStore) -> None:
    chain = cropped(store)
    without = ImageStore()
    without.put(picture())
    found = await Rerunner(settings()).call(chain, 1, 1, without, CLASSICAL)
    assert found.equal  # by its handle, although the recorded file is gone
    assert chain.turns[0].tools[0].images[0] not in without


async def test_a_source_that_was_not_kept_is_named(store: ImageStore) -> None:
    with pytest.raises(ConfigError, match="img_1 was not kept"):
        await Rerunner(settings()).call(cropped(store), 1, 1, ImageStore(), CLASSICAL)


async def test_a_tool_of_somebody_is_not_looked_for(store: ImageStore) -> None:
    with pytest.raises(ConfigError, match="--tools"):
        await Rerunner(settings()).call(cropped(store, name="os.system"), 1, 1, store, CLASSICAL)


async def test_places_that_are_none_and_malformed_calls(store: ImageStore) -> None:
    rerunner = Rerunner(settings())
    for turn, number in ((0, 1), (1, 2), (2, 1), (-1, 1)):
        with pytest.raises(ConfigError, match="no such call"):
            await rerunner.call(cropped(store), turn, number, store, CLASSICAL)
    with pytest.raises(ConfigError, match="could not be read"):
        await rerunner.call(cropped(store, malformed=True), 1, 1, store, CLASSICAL)


async def test_a_call_has_a_time_limit_and_others_wait_for_nobody(store: ImageStore) -> None:
    chain = cropped(store, name="stamp", arguments={"image_id": "img_1"})
    rerunner = Rerunner(settings(rerun_seconds=0.5))
    await rerunner.call(cropped(store), 1, 1, store, CLASSICAL)  # the tools are loaded
    first = asyncio.ensure_future(rerunner.call(chain, 1, 1, store, CLASSICAL))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="wait for them"):
        await rerunner.call(cropped(store), 1, 1, store, CLASSICAL)
    with suppress(TimeLimitExceeded):  # that of the request, or that of the tool, which comes as a result
        assert not (await first).equal
    assert (await rerunner.call(cropped(store), 1, 1, store, CLASSICAL)).equal


async def test_a_whole_chain_is_run_again(store: ImageStore) -> None:
    found = await Rerunner(settings()).chain(cropped(store), store, CLASSICAL)
    assert found["same"] is True
    assert found["equal"] == 1
    assert found["differences"] == []
    with pytest.raises(ConfigError, match="no calls"):
        await Rerunner(settings()).chain(trajectory(store, [[]]), store, CLASSICAL)


def test_a_call_sees_the_names_that_were_there_before_it(store: ImageStore) -> None:
    source, one, two = (store.put(picture(colour)) for colour in ("red", "green", "blue"))
    names = {"img_1": source, "img_2": one, "img_3": two}
    chain = trajectory(store, [[edit(source, one)], [edit(one, two), edit(two, source)]], names=names)
    assert [name for name, _ in names_before(chain, 1, 1)] == ["img_1"]
    assert [name for name, _ in names_before(chain, 2, 1)] == ["img_1", "img_2"]
    assert [name for name, _ in names_before(chain, 2, 2)] == ["img_1", "img_2", "img_3"]


@pytest.mark.parametrize("engines", [None, "classical", {"editor": "classical", "cache": {"root": "/x"}}])
def test_embedded_engines_of_a_run_are_used_without_its_cache(engines: object) -> None:
    assert choose_engines(None, RunSetup(engines=engines), [ToolRecord("a", {}, 0.0, "classical")]) == "classical"  # type: ignore[arg-type]


def test_tools_that_work_without_engines_are_run_again() -> None:
    for setup, name in ((RunSetup(), "retouch"), (RunSetup(), ""), (CLASSICAL, "somebody's own")):
        assert choose_engines(None, setup, [ToolRecord("a", {}, 0.0, name)]) == "classical"


@pytest.mark.parametrize(
    ("setup", "engine"),
    [
        (RunSetup(engines="openai"), "classical"),
        (RunSetup(engines={"editor": {"engine": "openai", "base_url": "http://elsewhere"}}), ""),
        (RunSetup(engines={"editor": {"engine": "classical", "base_url": "http://elsewhere"}}), ""),
        (RunSetup(nodes=True), "classical"),
        (RunSetup(), "classical + diffusion:x"),
    ],
)
def test_other_engines_are_named_by_a_person(setup: RunSetup, engine: str) -> None:
    records = [ToolRecord("a", {}, 0.0, engine)]
    with pytest.raises(ConfigError, match="--engine"):
        choose_engines(None, setup, records)
    assert choose_engines({"editor": "classical", "cache": {}}, setup, records) == {"editor": "classical"}
