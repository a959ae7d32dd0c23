"""Directional similarity on tiny random checkpoints of the real classes: the geometry holds whatever the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.datasets.photos import load_photo
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import EditSample, Score
from agentfly.evaluators.measured.similarity import DirectionalSimilarityEvaluator, SimilaritySettings
from tests.tiny.clip import clip, siglip

SOURCE = load_photo("coffee.png").resize((48, 48))
TARGET = load_photo("rocket.jpg").resize((48, 48))
CAPTIONS = {"source_caption": "a cup of coffee", "target_caption": "a rocket that starts"}


@pytest.fixture(scope="module", params=[clip, siglip])
def evaluator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> DirectionalSimilarityEvaluator:
    make: Callable[[Path], Path] = request.param
    folder = make(tmp_path_factory.mktemp("similarity"))
    return DirectionalSimilarityEvaluator(SimilaritySettings(model=str(folder), device="cpu"))


async def score(evaluator: DirectionalSimilarityEvaluator, result: Image.Image | None, **fields: Any) -> Score:
    return await evaluator.evaluate(EditSample("x", SOURCE, result, **fields))


async def test_the_target_goes_all_the_way_and_half_of_it_less_far(evaluator: DirectionalSimilarityEvaluator) -> None:
    whole = await score(evaluator, TARGET, target=TARGET)
    assert whole.value == pytest.approx(100.0)
    assert 0 <= whole.aspects["kept"] < 1
    half = await score(evaluator, Image.blend(SOURCE, TARGET, 0.5), target=TARGET)
    assert half.aspects["kept"] > whole.aspects["kept"]


async def test_a_copy_of_the_source_goes_nowhere(evaluator: DirectionalSimilarityEvaluator) -> None:
    for fields in ({"target": TARGET}, {"metadata": CAPTIONS}):
        copy = await score(evaluator, SOURCE.copy(), **fields)
        assert copy.value == 0.0
        assert copy.aspects["kept"] == pytest.approx(1.0)
        assert "unchanged" in copy.feedback


async def test_words_give_a_direction_and_the_opposite_words_the_opposite_one(
    evaluator: DirectionalSimilarityEvaluator,
) -> None:
    swapped = {"source_caption": CAPTIONS["target_caption"], "target_caption": CAPTIONS["source_caption"]}
    directions = [
        (await score(evaluator, TARGET, metadata=words)).aspects["direction"] for words in (CAPTIONS, swapped)
    ]
    assert min(directions) == 0.0
    assert max(directions) > 0.0
    vectors = evaluator.space.read(("a cup of coffee", "a rocket that starts"))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0, 1.0])


async def test_it_needs_words_or_a_target_that_say_what_is_to_change(evaluator: DirectionalSimilarityEvaluator) -> None:
    with pytest.raises(EvaluatorError, match="source_caption"):
        await score(evaluator, TARGET, metadata={"target_caption": "a rocket"})
    with pytest.raises(EvaluatorError, match="nothing is to change"):
        await score(evaluator, TARGET, target=SOURCE)
    assert (await score(evaluator, None, target=TARGET)).value == 0.0


def test_a_folder_without_a_model_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        DirectionalSimilarityEvaluator(SimilaritySettings(model=str(tmp_path)))
