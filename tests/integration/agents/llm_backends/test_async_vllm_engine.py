"""A real vLLM engine: exact ids, images, many chains, cancelling."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest
from PIL import Image

from agentfly.agents.llm_backends import AsyncVLLMBackend, AsyncVLLMConfig, GenerationRequest, SamplingParams
from agentfly.errors import BackendError, ConfigError
from agentfly.messages import ImagePart, Message, TextPart, text_message

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

IMAGES = {"img_red": Image.new("RGB", (168, 84), "red"), "img_blue": Image.new("RGB", (56, 56), "blue")}
LONG = {"ignore_eos": True, "stop_token_ids": []}


def asked(
    backend: AsyncVLLMBackend, *handles: str, name: str = "r", times: int = 1, **sampling: Any
) -> GenerationRequest:
    words: list[TextPart | ImagePart] = [TextPart("Remove the red circle." * times)]
    parts = (*map(ImagePart, handles), *words)
    messages = [text_message("system", "You edit images."), Message("user", parts)]
    ids = backend.codec.prompt_ids(messages, [], IMAGES.__getitem__)
    params = SamplingParams(**{"max_tokens": 12, "seed": 1, **sampling})
    return GenerationRequest(name, name, messages, [], params, ids, handles, IMAGES.__getitem__)


async def test_ids_and_logprobs_belong_together(backend: AsyncVLLMBackend) -> None:
    turn = await backend.generate(asked(backend, "img_red", extra=LONG))
    assert turn.token_ids is not None
    assert turn.logprobs is not None
    assert (len(turn.token_ids), len(turn.logprobs), turn.finish_reason) == (12, 12, "length")
    assert all(value <= 0.0 for value in turn.logprobs)
    assert turn.text == backend.codec.decode(turn.token_ids)


async def test_logprobs_are_those_of_the_model_whatever_the_temperature(backend: AsyncVLLMBackend) -> None:
    """A trainer computes log-probs at temperature 1 without masks; the first token of one prompt must agree."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    request = asked(backend, "img_red", "img_blue", temperature=0.5, max_tokens=1, extra=LONG)
    turn = await backend.generate(request)
    assert turn.token_ids is not None
    assert turn.logprobs is not None
    processor = backend.codec.processor
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(processor.tokenizer.name_or_path).eval()
    images = processor.image_processor(images=[IMAGES[h] for h in request.images], return_tensors="pt")
    ids = torch.tensor([list(request.prompt_ids)])
    with torch.no_grad():
        kinds = (ids == backend.codec.image_id).int()
        logits = model(input_ids=ids, mm_token_type_ids=kinds, **images).logits[0, -1]
    expected = torch.log_softmax(logits.float(), -1)[turn.token_ids[0]].item()
    assert turn.logprobs[0] == pytest.approx(expected, abs=2e-3)


async def test_greedy_and_seeded_turns_repeat(backend: AsyncVLLMBackend) -> None:
    for sampling in ({"temperature": 0.0, "seed": None}, {"temperature": 1.0, "seed": 7}):
        one = await backend.generate(asked(backend, "img_red", **sampling))
        two = await backend.generate(asked(backend, "img_red", **sampling))
        assert one.token_ids == two.token_ids
    other = await backend.generate(asked(backend, "img_red", seed=8, extra=LONG))
    again = await backend.generate(asked(backend, "img_red", seed=9, extra=LONG))
    assert other.token_ids != again.token_ids


async def test_the_policy_sees_the_image(backend: AsyncVLLMBackend) -> None:
    """Same ids, another image of the same size: log-probs must differ."""
    request = asked(backend, "img_red", temperature=0.0, max_tokens=1)
    green = Image.new("RGB", (168, 84), "green")
    seen = await backend.generate(request)
    other = await backend.generate(dataclasses.replace(request, load_image=lambda _: green))
    assert seen.logprobs != other.logprobs


async def test_eight_chains_at_once_each_get_their_own_answer(backend: AsyncVLLMBackend) -> None:
    requests = [
        asked(backend, *(["img_red"] if i % 2 else ["img_blue", "img_red"]), name=f"c{i}", seed=i) for i in range(8)
    ]
    together = await asyncio.gather(*map(backend.generate, requests))
    assert [turn.prompt_tokens for turn in together] == [len(request.prompt_ids) for request in requests]
    assert len({turn.token_ids for turn in together}) > 4


async def test_deltas_join_to_the_text(backend: AsyncVLLMBackend) -> None:
    heard: list[str] = []

    async def listen(text: str) -> None:
        heard.append(text)

    request = asked(backend, "img_red", temperature=0.0, max_tokens=24)
    turn = await backend.generate(request, listen)
    assert len(heard) > 1
    assert turn.token_ids == (await backend.generate(request)).token_ids
    # Bytes that are no whole character yet are held back while streaming.
    assert turn.text.startswith("".join(heard).rstrip("\ufffd"))


async def test_placeholders_are_never_sampled(backend: AsyncVLLMBackend) -> None:
    image = backend.codec.image_id
    extra = {**LONG, "allowed_token_ids": [image, 5]}
    turn = await backend.generate(asked(backend, temperature=1.0, max_tokens=20, extra=extra))
    assert turn.token_ids == (5,) * 20


async def test_a_known_prefix_is_not_computed_again(backend: AsyncVLLMBackend) -> None:
    """The second turn of a chain starts where the first one ended; another image is another prefix."""
    first = asked(backend, "img_red", name="prefix-0", times=40)
    turn = await backend.generate(first)
    assert turn.token_ids is not None
    more = [*first.prompt_ids, *turn.token_ids, *first.prompt_ids[:3]]
    second = dataclasses.replace(first, request_id="prefix-1", prompt_ids=more)
    # Blocks of a CPU engine hold 128 tokens.
    cached = (await backend.generate(second)).extra["cached_tokens"]
    assert isinstance(cached, int)
    assert cached >= 128
    green = Image.new("RGB", (168, 84), "green")
    other = dataclasses.replace(second, request_id="prefix-2", load_image=lambda _: green)
    assert (await backend.generate(other)).extra["cached_tokens"] == 0


async def test_cancelling_aborts_the_request_in_the_engine(backend: AsyncVLLMBackend) -> None:
    started = asyncio.Event()

    async def listen(_: str) -> None:
        started.set()

    task = asyncio.create_task(backend.generate(asked(backend, max_tokens=900, extra=LONG), listen))
    await asyncio.wait_for(started.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    engine = await backend._engine()
    assert not engine.output_processor.has_unfinished_requests()
    begin = time.monotonic()
    assert (await backend.generate(asked(backend, max_tokens=2))).token_ids
    assert time.monotonic() - begin < 20


async def test_another_prompt_than_vllms_is_an_error(backend: AsyncVLLMBackend) -> None:
    request = asked(backend, "img_red")
    image = backend.codec.image_id
    at = list(request.prompt_ids).index(image)
    short = [*request.prompt_ids[:at], *request.prompt_ids[at + 1 :]]
    with pytest.raises(BackendError, match="the prompt is not vLLM's: the ids of an image"):
        await backend.generate(dataclasses.replace(request, prompt_ids=short))


async def test_what_vllm_refuses_is_a_backend_error_and_the_engine_lives_on(backend: AsyncVLLMBackend) -> None:
    request = asked(backend)
    long = dataclasses.replace(request, prompt_ids=[*request.prompt_ids] * 100)
    for refused in (long, asked(backend, extra={"no_such_field": 1}), asked(backend, top_p=3.0)):
        with pytest.raises(BackendError, match="vLLM refused") as fault:
            await backend.generate(refused)
        assert not fault.value.retryable
    assert (await backend.generate(request)).token_ids


async def test_another_loop_is_told_so(backend: AsyncVLLMBackend) -> None:
    await backend.generate(asked(backend, max_tokens=1))
    with pytest.raises(BackendError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, backend.generate(asked(backend)))


async def test_every_engine_argument_can_be_set() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    names = [name for name in AsyncEngineArgs.__dataclass_fields__ if name != "model"]
    declared = AsyncVLLMConfig.model_fields.keys()
    config = AsyncVLLMConfig(**{name: f"<{name}>" for name in names if name not in declared})
    config.check_names(AsyncEngineArgs.__dataclass_fields__)
    assert config.given() == {name: f"<{name}>" for name in names if name not in declared}
    assert declared - {"start_timeout"} <= set(names)


async def test_an_unknown_setting_is_named_before_the_engine_starts(backend: AsyncVLLMBackend) -> None:
    model = backend.codec.processor.tokenizer.name_or_path
    wrong = AsyncVLLMBackend(model, AsyncVLLMConfig(max_num_seq=2), codec=backend.codec)
    with pytest.raises(ConfigError, match="Did you mean 'max_num_seqs'"):
        await wrong.generate(asked(backend))
