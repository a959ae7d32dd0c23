"""The order of things in a run: who is asked what, when it ends, and what counts as best."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.errors import BackendError, ToolError
from agentfly.systems.director_generator import DirectorGenerator, Request, RunRecord, load_studio
from agentfly.systems.generators import GeneratedImage, ImageGenerator, ImageRequest
from agentfly.systems.generators.placeholder import FailoverGenerator
from tests.unit.systems.director_generator.conftest import Configure

Says = Callable[[str, str], str]


def agents(critique: Callable[[str, int], str], refine: str = "better", **others: str) -> ScriptedBackend:
    """Agents that answer the recipe's prompts; a critique is told the judged prompt and how many came before."""
    count = {"critiques": 0}

    def say(request: GenerationRequest) -> str:
        system, user = (message.text for message in request.messages)
        if "Write a brief" in user:
            return others.get("brief", "The brief of Ada.")
        if "Answer with one JSON object" in user:
            count["critiques"] += 1
            return critique(user.split("prompt:\n---\n")[1].split("\n---")[0], count["critiques"] - 1)
        name = system.split("You are ")[1].split(",")[0]
        if "Write a better prompt" in user:
            if refine == "fails" and name == "Lush":
                raise BackendError("no more words")
            return f"{refine} {name}"
        return f"first {name}"

    return ScriptedBackend(say)


def scores(*values: float) -> Callable[[str, int], str]:
    return lambda _, index: f'{{"feedback": "number {index}", "score": {values[min(index, len(values) - 1)]}}}'


class Colours:
    """A generator whose images tell their seed; fails for prompts with a word."""

    name = "colours"

    def __init__(self, fails: str = "nothing fails") -> None:
        self.fails = fails
        self.seeds: list[int | None] = []

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        self.seeds.append(request.seed)
        if self.fails in request.prompt:
            raise ToolError("the brush broke")
        return GeneratedImage(Image.new("RGB", (8, 8), ((request.seed or 0) % 256, 0, 0)))

    async def close(self) -> None:
        """Nothing."""


async def go(
    configure: Configure, backend: ScriptedBackend, generator: ImageGenerator | None = None, **changes: Any
) -> RunRecord:
    studio = load_studio(configure(**changes), {})
    system = DirectorGenerator(studio, backends={"qwen": backend}, generator=generator or Colours())
    record = await system.run(Request("a red boat"))
    await system.close()
    return record


def phases(record: RunRecord) -> list[tuple[int, str]]:
    return [(phase.loop, phase.phase) for phase in record.phases]


async def test_a_good_image_ends_the_run(configure: Configure) -> None:
    colours = Colours()
    record = await go(configure, agents(scores(40, 85)), colours)
    assert phases(record) == [(0, "brief"), (1, "write"), (1, "paint"), (1, "critique")]
    assert (record.status, record.error, record.steps) == ("threshold", None, 4)
    assert record.best is not None
    assert (record.best.generator, record.best.score, record.best.engine) == ("Lush", 85, "colours")
    assert colours.seeds == [7, 8]


async def test_rounds_end_at_max_loops_and_the_earliest_of_the_best_is_kept(configure: Configure) -> None:
    record = await go(configure, agents(scores(20, 60, 60, 10)), max_loops=2)
    assert phases(record)[4:] == [(2, "refine"), (2, "paint"), (2, "critique")]
    assert record.status == "max_loops"
    assert record.best is not None
    assert (record.best.loop, record.best.generator, record.best.score) == (1, "Lush", 60)
    assert len({image.seed for image in record.images}) == 4


async def test_generators_are_told_the_critique_of_their_own_image_and_the_best_of_others(
    configure: Configure,
) -> None:
    record = await go(configure, agents(scores(20, 60)), max_loops=2)
    plain, lush = next(phase for phase in record.phases if phase.phase == "refine").calls
    assert "Ada (20 points): number 0" in plain.user
    assert "Lush has 60 points with this prompt:\nfirst Lush" in plain.user
    assert "Nobody else has a better one." in lush.user
    assert "The brief of Ada." in lush.user
    assert plain.images == (record.images[0].handle,)


async def test_directors_see_the_image_and_what_it_was_made_of(configure: Configure) -> None:
    record = await go(configure, agents(scores(90)))
    call = record.phases[3].calls[0]
    assert call.images == (record.images[0].handle,)
    assert "first Plain" in call.user
    assert "The brief of Ada." in call.user
    assert call.system.startswith("You are Ada, one of several directors")


async def test_the_recursion_limit_says_what_to_change(configure: Configure) -> None:
    record = await go(configure, agents(scores(10)), recursion_limit=5)
    assert (record.status, record.steps) == ("recursion_limit", 5)
    assert "recursion_limit of 5 phases reached before phase 'paint' of round 2: raise" in str(record.error)
    assert record.best is not None


async def test_a_stand_in_is_no_success_and_never_better_than_an_image(configure: Configure) -> None:
    generator = FailoverGenerator(Colours(fails="Lush"), (64, 64))
    record = await go(configure, agents(scores(30, 99)), generator, max_loops=1)
    assert record.status == "max_loops"
    assert record.best is not None
    assert (record.best.generator, record.best.score) == ("Plain", 30)
    stand_in = record.images[1]
    assert (stand_in.stand_in, stand_in.engine, stand_in.fault) == (True, "mock", "the brush broke")
    assert (record.counts()["failovers"], record.counts()["failed_images"]) == (1, 0)


async def test_stand_ins_alone_are_no_success_either(configure: Configure) -> None:
    record = await go(configure, agents(scores(99)), FailoverGenerator(Colours(fails=""), (64, 64)), max_loops=1)
    assert (record.status, record.counts()["failovers"]) == ("max_loops", 2)
    assert record.best is not None
    assert record.best.stand_in


async def test_a_failed_image_is_recorded_and_its_generator_is_told(configure: Configure) -> None:
    record = await go(configure, agents(scores(30)), Colours(fails="first Lush"), max_loops=2)
    assert record.images[1].fault == "the brush broke"
    lush = next(phase for phase in record.phases if phase.phase == "refine").calls[1]
    assert "The image could not be made: the brush broke" in lush.user
    assert lush.images == ()
    assert record.counts()["failed_images"] == 1
    assert record.images[3].handle is not None


async def test_a_round_without_images_may_be_tried_once_in_other_words(configure: Configure) -> None:
    record = await go(configure, agents(scores(90)), Colours(fails="first"), max_loops=3)
    assert (record.status, record.counts()["failed_images"]) == ("threshold", 2)
    record = await go(configure, agents(scores(90)), Colours(fails=""), max_loops=5)
    assert (record.status, record.counts()["loops"]) == ("failed", 2)
    assert record.error == "no image could be made: the brush broke"


async def test_a_generator_that_fails_sits_a_round_out(configure: Configure) -> None:
    record = await go(configure, agents(scores(30), refine="fails"), max_loops=2)
    assert [image.generator for image in record.images] == ["Plain", "Lush", "Plain"]
    assert record.counts()["failed_calls"] == 1


async def test_a_broken_critique_is_asked_for_again_with_the_reason(configure: Configure) -> None:
    def critique(_: str, index: int) -> str:
        return "Lovely!" if index < 2 else '{"feedback": "x", "score": 90}'

    record = await go(configure, agents(critique))
    first, second = record.phases[3].calls
    assert sorted([first.attempts, second.attempts]) == [2, 2]
    assert "Your last reply could not be used: no JSON object" in first.user
    assert record.status == "threshold"


async def test_without_any_score_the_run_has_failed_and_says_why(configure: Configure) -> None:
    record = await go(configure, agents(lambda *_: "Lovely!"))
    assert (record.status, record.best) == ("failed", None)
    assert "no director scored any image: no JSON object" in str(record.error)
    assert record.counts()["images"] == 2


async def test_thoughts_are_kept_in_the_record_and_out_of_the_prompt(configure: Configure) -> None:
    record = await go(configure, agents(scores(90), brief="<think>hm</think>Calm."))
    assert record.calls[0].reply == "<think>hm</think>Calm."
    assert "<think>" not in record.phases[1].calls[0].user


async def test_runs_side_by_side_do_not_mix(configure: Configure) -> None:
    studio = load_studio(configure(), {})
    system = DirectorGenerator(studio, backends={"qwen": agents(scores(90))}, generator=Colours())
    records = await asyncio.gather(*(system.run(Request(f"boat {number}")) for number in range(3)))
    assert [len(record.calls) for record in records] == [5, 5, 5]
    assert all(f"boat {number}" in records[number].calls[0].user for number in range(3))


@pytest.mark.parametrize("place", ["brief", "write"])
async def test_a_phase_that_yields_nothing_ends_the_run(configure: Configure, place: str) -> None:
    def say(request: GenerationRequest) -> str:
        if place == "brief" or "Write a brief" not in request.messages[-1].text:
            raise BackendError("the line is dead")
        return "A brief."

    record = await go(configure, ScriptedBackend(say))
    assert record.status == "failed"
    assert "the line is dead" in str(record.error)
    assert phases(record)[-1][1] == place
