"""The open-vocabulary detectors, on tiny checkpoints of their real classes."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from agentfly.errors import ConfigError, ToolError
from agentfly.vision.base import Detections, Detector
from agentfly.vision.detection.boxes import least_tokens, normalise_prompt
from agentfly.vision.detection.grounding_dino import GroundingDinoDetector, GroundingDinoSettings

pytestmark = pytest.mark.slow

Checkpoint = Callable[[str], str]

pytest.importorskip("torch")

needs_groundingdino_py = pytest.mark.skipif(
    importlib.util.find_spec("groundingdino") is None,
    reason="groundingdino-py is not installed: it is an extra of its own, pip install -e '.[groundingdino]'",
)


@pytest.fixture(
    scope="module",
    params=[
        "grounding_dino",
        "mm_grounding_dino",
        pytest.param("groundingdino_py", marks=[needs_groundingdino_py, pytest.mark.slow]),
    ],
)
def detector(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Detector:
    folder = checkpoint(request.param)
    if request.param != "groundingdino_py":
        return GroundingDinoDetector(GroundingDinoSettings(model=folder, device="cpu"))
    from agentfly.vision.detection.groundingdino_py import GroundingDinoPyDetector, GroundingDinoPySettings

    settings = GroundingDinoPySettings(
        model=f"{folder}/model.pth", config=f"{folder}/config.py", device="cpu", shortest_edge=96, longest_edge=128
    )
    return GroundingDinoPyDetector(settings)


async def find(detector: Detector, image: Image.Image, box: float, text: float = 0.0) -> Detections:
    found = await detector.detect(image, "A Cat, a DOG", box_threshold=box, text_threshold=text)
    assert isinstance(found, Detections)
    return found


async def test_detections_are_inside_the_image_best_first_with_words_of_the_prompt(
    detector: Detector, noise: Image.Image
) -> None:
    found = await find(detector, noise, 0.0)
    assert len(found) > 5
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        x0, y0, x1, y1 = one.box
        assert 0 <= x0 < x1 <= 128
        assert 0 <= y0 < y1 <= 96
        assert one.mask.getbbox() == one.box
        assert one.label
        assert set(one.label) <= set("a cat dog")


async def test_box_threshold_divides_what_is_found_from_the_best_rejected(
    detector: Detector, noise: Image.Image
) -> None:
    everything = await find(detector, noise, 0.0)
    middle = sorted({one.score for one in everything})[len({one.score for one in everything}) // 2]
    found = await find(detector, noise, middle)
    assert [(one.box, one.score) for one in found] == [(one.box, one.score) for one in everything if one.score > middle]
    assert found.best_rejected == pytest.approx(middle, abs=1e-3)
    nothing = await find(detector, noise, 1.0)
    assert nothing == []
    assert nothing.best_rejected == pytest.approx(everything[0].score, abs=1e-3)


async def test_words_below_text_threshold_are_left_out_of_the_label(detector: Detector, noise: Image.Image) -> None:
    everything = await find(detector, noise, 0.0, text=0.0)
    some = await find(detector, noise, 0.0, text=everything[-1].score)
    assert any(len(b.label) < len(a.label) for a, b in zip(everything, some, strict=True))


async def test_grey_and_transparent_images_are_accepted(detector: Detector, noise: Image.Image) -> None:
    for mode in ("L", "RGBA"):
        assert await find(detector, noise.convert(mode), 0.0)


async def test_an_empty_prompt_is_an_observation(detector: Detector, noise: Image.Image) -> None:
    with pytest.raises(ToolError, match="names nothing"):
        await detector.detect(noise, " . ", box_threshold=0.3, text_threshold=0.3)


async def test_a_prompt_that_the_text_encoder_would_cut_is_an_observation(
    detector: Detector, noise: Image.Image
) -> None:
    limit = 256 if detector.name.startswith("groundingdino-py") else 64
    with pytest.raises(ToolError, match=rf"has \d+ tokens and the detector takes {limit}: name fewer things"):
        await detector.detect(noise, "a cat. " * 300, box_threshold=0.0, text_threshold=0.0)
    assert await find(detector, noise, 0.0)


async def test_the_longest_prompt_that_fits_is_searched(checkpoint: Checkpoint, noise: Image.Image) -> None:
    detector = GroundingDinoDetector(GroundingDinoSettings(model=checkpoint("grounding_dino"), device="cpu"))
    _, processor = detector.load()
    words = ["cat"]
    while processor.tokenizer(". ".join([*words, "cat"]) + ".", return_tensors="pt")["input_ids"].shape[1] <= 64:
        words.append("cat")
    prompt = ". ".join(words)
    assert least_tokens(normalise_prompt(prompt)) <= 64
    assert await detector.detect(noise, prompt, box_threshold=0.0, text_threshold=0.0)
    with pytest.raises(ToolError, match="tokens"):
        await detector.detect(noise, f"{prompt}. cat", box_threshold=0.0, text_threshold=0.0)


async def test_the_prompt_reaches_the_model_normalised(
    checkpoint: Checkpoint, noise: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = GroundingDinoDetector(GroundingDinoSettings(model=checkpoint("grounding_dino"), device="cpu"))
    model, processor = detector.load()
    seen, threads = [], []

    def spy(**inputs: object) -> object:
        seen.append(inputs["text"])
        threads.append(threading.current_thread())
        return processor(**inputs)

    spy.post_process_grounded_object_detection = processor.post_process_grounded_object_detection  # type: ignore[attr-defined]
    monkeypatch.setattr(detector, "_loaded", (model, spy))
    await find(detector, noise, 0.9)
    assert seen == ["a cat. a dog."]
    assert threads[0] is not threading.main_thread()


async def test_concurrent_calls_give_what_single_calls_give(checkpoint: Checkpoint, noise: Image.Image) -> None:
    detector = GroundingDinoDetector(GroundingDinoSettings(model=checkpoint("grounding_dino"), device="cpu"))
    turned = noise.transpose(Image.Transpose.ROTATE_90)
    alone = [await find(detector, image, 0.0) for image in (noise, turned)]
    together = await asyncio.gather(*(find(detector, image, 0.0) for image in (noise, turned) * 2))
    assert [[one.box for one in found] for found in together] == [[one.box for one in found] for found in alone] * 2


def test_wrong_checkpoints_are_refused_with_the_fix(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        GroundingDinoDetector(GroundingDinoSettings(model=str(tmp_path)))
    with pytest.raises(ConfigError, match="is a sam model: give a GroundingDINO"):
        GroundingDinoDetector(GroundingDinoSettings(model=checkpoint("sam"), device="cpu")).load()


def test_a_checkpoint_without_weights_is_a_config_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for file in Path(checkpoint("grounding_dino")).glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="cannot load"):
        GroundingDinoDetector(GroundingDinoSettings(model=str(tmp_path), device="cpu")).load()
