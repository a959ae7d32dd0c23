"""The loop against a server that draws, judges and writes, and does each of them badly at times."""

from __future__ import annotations

import base64
import io
import itertools
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import ConfigError, ToolError
from agentfly.evaluators import EditSample, Score
from agentfly.systems.refinement import (
    FeedbackPrompter,
    GeneratedImage,
    ImageRequest,
    LoopEnd,
    Refinement,
    RefinementLoop,
    RefinementSettings,
    make_loop,
)
from tests.unit.systems.refinement.conftest import at
from tests.unit.systems.refinement.openai_server import (
    OpenAIServer,
    Reply,
    chat,
    drawn,
    fault,
    judged,
    refused,
    response,
    written,
)


async def refine(
    settings: RefinementSettings, wish: str = "a ring", references: tuple[Image.Image, ...] = ()
) -> Refinement:
    loop, close = make_loop(settings)
    try:
        return await loop.run(wish, references)
    finally:
        await close()


async def test_images_are_refined_until_the_threshold(openai: OpenAIServer) -> None:
    openai.say(
        [drawn("red"), drawn("green"), drawn("blue")],
        [judged(40, "Too dark."), judged(95, "Good.")],
        [written('"a bright ring"')],
    )
    done = await refine(at(openai, model="gpt-x", max_iterations=5))
    assert (done.end, len(done.iterations), done.thread_id) == (LoopEnd.THRESHOLD, 2, "conv_7")
    assert done.best is done.iterations[1]
    assert [one.prompt for one in done.iterations] == ["a ring", "a bright ring"]
    first, second = openai.bodies("image")
    assert first["model"] == "gpt-x"
    (tool,) = first["tools"]
    assert tool == {
        "type": "image_generation",
        "quality": "high",
        "size": "1024x1024",
        "background": "transparent",
        "output_format": "png",
    }
    assert first["tool_choice"] == {"type": "image_generation"}
    assert "previous_response_id" not in first
    assert second["previous_response_id"] == "resp_1"
    (asked,) = openai.bodies("prompt")
    assert asked["conversation"] == "conv_7"
    assert "Too dark." in asked["input"][0]["content"]
    judges = [body["messages"][0]["content"][-1]["text"] for body in openai.bodies("judge")]
    assert "a ring" in judges[0]
    # A prompt that drifts away from the wish must not pay: the judge is told both.
    assert "a ring" in judges[1]
    assert "a bright ring" in judges[1]
    assert set(openai.keys) == {"Bearer sk-test-1"}


async def test_references_go_with_the_first_request_only(openai: OpenAIServer) -> None:
    openai.say([drawn("red"), drawn("green")])
    await refine(at(openai, max_iterations=2), references=(Image.new("RGB", (8, 6), "blue"), Image.new("L", (4, 4))))
    first, second = (body["input"][0]["content"] for body in openai.bodies("image"))
    assert [part["type"] for part in first] == ["input_text", "input_image", "input_image"]
    data = first[1]["image_url"].partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8, 6)
    assert [part["type"] for part in second] == ["input_text"]


BAD_IMAGES: dict[str, tuple[Reply, str]] = {
    "moderation": (fault(400, "blocked by our safety system", "moderation_blocked"), "safety system"),
    "refusal": (refused("I cannot draw that."), "I cannot draw that"),
    "words instead": (written("Which ring do you mean?"), "Which ring"),
    "nothing": (response(), "no reason"),
    "incomplete": (response(status="incomplete", incomplete_details={"reason": "content_filter"}), "content_filter"),
    "failed": (response(status="failed", error={"code": "server_error", "message": "out of paint"}), "out of paint"),
    "call failed": (
        response(
            {
                "type": "image_generation_call",
                "id": "i",
                "status": "failed",
                "result": None,
                "error": {"message": "unsafe", "type": "moderation"},
            }
        ),
        "unsafe",
    ),
    "server error": (fault(500, "oops"), "did not answer"),
    "rate limit": (fault(429, "slow down"), "did not answer"),
    "cut": (Reply(drawn().body, cut=True), "did not answer"),
    "not an image": (
        response({"type": "image_generation_call", "id": "i", "status": "completed", "result": "aGVsbG8="}),
        "cannot be read",
    ),
    "no base64": (
        response({"type": "image_generation_call", "id": "i", "status": "completed", "result": "%%%"}),
        "cannot be read",
    ),
    "a web page": (Reply(b"<html></html>"), "base_url"),
}


@pytest.mark.slow
async def test_an_iteration_without_an_image_is_recorded_and_the_loop_goes_on(openai: OpenAIServer) -> None:
    # One loop for all of them: making the clients takes longer than all that they are asked.
    loop, close = make_loop(at(openai))
    for name, (reply, words) in BAD_IMAGES.items():
        openai.asked.clear()
        openai.say([drawn("red"), reply, drawn("blue")], [judged(60), judged(70)])
        done = await loop.run("a ring")
        assert [one.image is not None for one in done.iterations] == [True, False, True], name
        assert words in str(done.iterations[1].fault), name
        assert done.best is done.iterations[2], name
        # The next request goes on from the last image that was made.
        assert openai.bodies("image")[2]["previous_response_id"] == "resp_1", name
        # Whoever writes the next prompt knows what went wrong.
        assert words in openai.bodies("prompt")[1]["input"][0]["content"], name
    await close()


async def test_a_slow_image_times_out(openai: OpenAIServer) -> None:
    openai.say([Reply(drawn().body, after=1.0), drawn("red")])
    done = await refine(at(openai, timeout=0.3, max_iterations=2))
    assert "within 0.3 s" in str(done.iterations[0].fault)
    assert done.best is done.iterations[1]


async def test_references_are_sent_again_while_there_is_no_image(openai: OpenAIServer) -> None:
    openai.say([refused("no"), drawn("red")])
    await refine(at(openai, max_iterations=2), references=(Image.new("RGB", (8, 6)),))
    assert [len(body["input"][0]["content"]) for body in openai.bodies("image")] == [2, 2]


async def test_no_image_at_all_is_told_with_the_reason(openai: OpenAIServer) -> None:
    openai.say([refused("I cannot draw that.")])
    done = await refine(at(openai, max_iterations=2))
    assert done.best is None
    assert done.fault == "the model refused: I cannot draw that."
    assert done.end is LoopEnd.MAX_ITERATIONS


@pytest.mark.parametrize(("status", "words"), [(401, "check OPENAI_API_KEY"), (404, "check model")])
async def test_a_wrong_key_or_model_ends_the_loop_at_once(openai: OpenAIServer, status: int, words: str) -> None:
    openai.say([fault(status, "wrong sk-test-1")])
    done = await refine(at(openai))
    assert (done.end, len(done.iterations)) == (LoopEnd.ERROR, 1)
    assert words in str(done.error)
    assert len(openai.bodies("image")) == 1


async def test_a_judge_that_fails_costs_no_image(openai: OpenAIServer) -> None:
    openai.say([drawn("red"), drawn("green")], [chat("no JSON"), judged(30)])
    done = await refine(at(openai, max_iterations=2))
    assert str(done.iterations[0].fault).startswith("not scored: ")
    assert done.best is done.iterations[1]
    openai.say(judgements=[fault(404, "no judge")])
    done = await refine(at(openai))
    assert (done.end, len(done.iterations)) == (LoopEnd.ERROR, 1)
    assert done.best is done.iterations[0]
    assert done.fault is None


async def test_a_prompter_that_fails_leaves_the_last_prompt(openai: OpenAIServer) -> None:
    openai.say(prompts=[fault(500), written("<think>only thoughts</think>"), written("better")])
    done = await refine(at(openai, max_iterations=4))
    assert [one.prompt for one in done.iterations] == ["a ring", "a ring", "a ring", "better"]
    assert [bool(one.prompter_fault) for one in done.iterations] == [True, True, False, False]


async def test_a_server_without_conversations_links_its_responses(openai: OpenAIServer) -> None:
    openai.conversations = False
    done = await refine(at(openai))
    first, second = openai.bodies("prompt")
    assert "conversation" not in first
    assert second["previous_response_id"] == done.thread_id
    assert str(done.thread_id).startswith("resp_")


async def test_a_prompt_that_was_cut_off_is_not_used_and_nothing_goes_on_from_it(openai: OpenAIServer) -> None:
    openai.conversations = False
    cut = written("a bri")
    cut = Reply({**cut.body, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}})
    openai.say(prompts=[written("brighter"), cut, written("brightest")])
    done = await refine(at(openai, max_iterations=4))
    assert [one.prompt for one in done.iterations] == ["a ring", "brighter", "brighter", "brightest"]
    assert "max_output_tokens" in str(done.iterations[1].prompter_fault)
    first, second, third = openai.bodies("prompt")
    assert "previous_response_id" not in first
    assert second["previous_response_id"] == third["previous_response_id"] == done.thread_id


async def test_a_chat_endpoint_keeps_the_conversation_here(openai: OpenAIServer) -> None:
    openai.say(prompts=[chat("<think>hm</think>brighter"), chat("brightest")])
    done = await refine(at(openai, prompter="chat", rubric="jewelry"))
    assert [one.prompt for one in done.iterations] == ["a ring", "brighter", "brightest"]
    first, second = (body["messages"] for body in openai.bodies("prompt"))
    assert [message["role"] for message in first] == ["system", "user"]
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert second[2]["content"] == "brighter"
    assert "poor sparkle" in first[0]["content"]
    assert "prongs" in openai.bodies("judge")[0]["messages"][0]["content"][-1]["text"]
    assert str(done.thread_id).startswith("conv_")
    assert (done.usage["prompter"].requests, done.usage["prompter"].input_tokens) == (2, 20)


async def test_a_prompter_that_was_not_asked_has_no_conversation(openai: OpenAIServer) -> None:
    openai.say(judgements=[judged(99)])
    assert (await refine(at(openai, prompter="chat"))).thread_id is None
    assert (await refine(at(openai, prompter="responses"))).thread_id is None


async def test_a_server_that_is_not_there_is_named_with_what_to_check(openai: OpenAIServer) -> None:
    done = await refine(at(openai, base_url="http://127.0.0.1:9/v1", max_iterations=5))
    assert "cannot reach http://127.0.0.1:9/v1" in str(done.fault)
    assert len(done.iterations) <= 1, "no other iteration is tried"


async def test_two_runs_of_one_loop_have_conversations_of_their_own(openai: OpenAIServer) -> None:
    openai.say(prompts=[chat("better")])
    loop, close = make_loop(at(openai, prompter="chat", max_iterations=2))
    first, second = await loop.run("a ring"), await loop.run("a brooch")
    await close()
    assert first.thread_id != second.thread_id
    assert len(openai.bodies("prompt")[1]["messages"]) == 2


async def test_what_was_used_is_counted(openai: OpenAIServer) -> None:
    openai.say([drawn("red"), fault(500), drawn("blue")])
    done = await refine(at(openai))
    counts = {role: (used.requests, used.input_tokens, used.output_tokens) for role, used in done.usage.items()}
    assert counts == {"generator": (3, 200, 40), "judge": (2, 20, 10), "prompter": (2, 200, 40)}
    assert done.usage["generator"].to_dict(10.0, 40.0)["cost"] == pytest.approx(0.0036)
    assert done.usage["generator"].to_dict(None, None)["cost"] is None


class Colours:
    """Makes what a test wants."""

    name = "colours"

    def __init__(self, *colours: Any) -> None:
        self._colours = itertools.cycle(colours)

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        colour = next(self._colours)
        if isinstance(colour, Exception):
            raise colour
        return GeneratedImage(Image.new("RGB", (8, 6), colour))

    async def close(self) -> None: ...


class Critic:
    """Gives scores in turn, and remembers what it saw."""

    def __init__(self, *scores: float | Exception) -> None:
        self._scores = iter(scores)
        self.samples: list[EditSample] = []

    async def evaluate(self, sample: EditSample) -> Score:
        self.samples.append(sample)
        score = next(self._scores)
        if isinstance(score, Exception):
            raise score
        return Score(score, "feedback")


@pytest.mark.parametrize(
    ("scores", "best"),
    [((50, 70, 60), 2), ((70, 70, 70), 1), ((0, 0, 10), 3), ((0, ToolError("x"), 0), 1), ((ToolError("x"), 0, 0), 2)],
)
async def test_the_best_is_by_score_and_of_equals_the_earliest(scores: tuple[Any, ...], best: int) -> None:
    loop = RefinementLoop(Colours("red"), Critic(*scores), FeedbackPrompter, max_iterations=3)
    done = await loop.run("x")
    assert done.best is not None
    assert done.best.number == best


async def test_without_any_score_the_first_image_stands() -> None:
    loop = RefinementLoop(Colours("red"), Critic(*[ToolError("x")] * 2), FeedbackPrompter, max_iterations=2)
    done = await loop.run("x")
    assert done.best is done.iterations[0]


async def test_judges_see_the_reference_in_the_size_of_the_result() -> None:
    critic = Critic(10, 10)
    loop = RefinementLoop(Colours("red"), critic, FeedbackPrompter, max_iterations=1)
    await loop.run("x", [Image.new("RGB", (80, 20), "blue")])
    await loop.run("x")
    first, second = critic.samples
    assert (first.source.size, first.source.getpixel((0, 0))) == ((8, 6), (0, 0, 255))
    assert second.source.getpixel((0, 0)) == (255, 255, 255)


async def test_a_run_keeps_what_it_has_when_its_time_is_over() -> None:
    class Slow(Colours):
        async def generate(self, request: ImageRequest) -> GeneratedImage:
            if request.number == 2:
                import asyncio

                await asyncio.Event().wait()
            return await super().generate(request)

    loop = RefinementLoop(Slow("red"), Critic(40), FeedbackPrompter, max_iterations=3, wall_clock=0.2)
    done = await loop.run("x")
    assert (done.end, len(done.iterations)) == (LoopEnd.WALL_CLOCK, 2)
    assert done.best is done.iterations[0]
    assert "0.2 s" in str(done.iterations[1].fault)


async def test_listeners_hear_of_every_iteration() -> None:
    heard = []

    async def listen(iteration: Any) -> None:
        heard.append((iteration.number, iteration.score, iteration.fault))

    generator = Colours("red", ToolError("no"), "blue")
    loop = RefinementLoop(generator, Critic(1, 2), FeedbackPrompter, max_iterations=3, on_iteration=listen)
    done = await loop.run("wish")
    assert heard == [(1, 1, None), (2, None, "no"), (3, 2, None)]
    # Without a model the critique itself is the next prompt, and a refusal brings back the wish.
    assert [one.prompt for one in done.iterations] == ["wish", "wish\nMind this: feedback", "wish"]


async def test_a_bug_is_no_iteration() -> None:
    with pytest.raises(ZeroDivisionError):
        await RefinementLoop(Colours(ZeroDivisionError()), Critic(), FeedbackPrompter).run("x")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"format": "jpeg", "background": "transparent"}, "JPEG has no transparency"),
        ({"generator": "server"}, "server_url"),
        ({"qualty": "high"}, "quality"),
        ({"score_threshold": 101}, "--score-threshold"),
    ],
)
def test_settings_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RefinementSettings(**fields)


def test_a_background_that_the_format_cannot_show_is_not_asked_for() -> None:
    assert RefinementSettings(format="jpeg").wanted_background == "auto"
    assert RefinementSettings(format="webp").wanted_background == "transparent"
    assert RefinementSettings(background="opaque").wanted_background == "opaque"
