"""Tokens of images against the engine's context."""

from __future__ import annotations

from agentfly.doctor.checks import model
from tests.unit.doctor.judged import judged, levels, only


def qwen(size: tuple[int, int]) -> int:
    """Qwen2.5-VL's own limits, without rounding."""
    return min(16384, max(4, size[0] * size[1] // 784))


def test_prompt_and_processor() -> None:
    assert only(model.check_processor(model.SIZES, qwen, qwen))[0] == "ok"
    found = judged(model.check_processor([(512, 512)], qwen, lambda _: 9))
    assert found == [("error", "an image of 512x512 is 334 tokens in the prompt and 9 features in the model")]


def test_context() -> None:
    def context(tokens: int) -> list[str]:
        return levels(model.check_context(qwen, tokens, "--max-model-len", 8))

    assert context(128_000) == ["ok"]
    # Eight images fit, and one photograph as it comes from a camera takes half of all.
    assert context(16_384) == ["ok", "warning"]
    assert context(8_192) == ["warning", "warning"]
    assert context(4_096) == ["error", "warning"]
    small = list(model.check_context(lambda _: 9, 4_096, "x", 8))
    assert levels(small) == ["ok"]


def test_engine_and_checkpoint() -> None:
    assert levels(model.check_agreement(4096, 8192, None)) == []
    assert levels(model.check_agreement(4096, 8192, 8192)) == ["error"]
    assert levels(model.check_agreement(8192, 4096, None)) == ["warning"]
