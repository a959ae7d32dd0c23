"""MagicBrush and Emu Edit: distances as torch has them, cosines of tiny checkpoints of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.datasets.photos import load_photo
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluation.protocols.base import Row
from agentfly.evaluation.protocols.figures import figure
from agentfly.evaluation.protocols.magicbrush import measures
from agentfly.evaluation.protocols.measured import ProtocolMeasures
from agentfly.evaluators import EditSample
from tests.tiny.clip import clip
from tests.unit.evaluation.protocols.authors import grey

SOURCE = load_photo("coffee.png").resize((60, 48))
TARGET = load_photo("rocket.jpg").resize((60, 48))
RESULT = load_photo("astronaut.png").resize((80, 80))
CAPTIONS = {"source_caption": "a cup of coffee", "target_caption": "a rocket that starts"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tiny checkpoints of `CLIPModel` and `ViTModel`."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return {"clip": str(clip(tmp_path_factory.mktemp("clip"))), "dino": str(folder), "device": "cpu"}


async def test_distances_are_those_of_the_script() -> None:
    import torch

    tested = ProtocolMeasures("magicbrush", ["l1", "l2"])
    found = (await tested.evaluate(EditSample("x", SOURCE, RESULT, TARGET))).aspects
    # torchvision's ToTensor is a division by 255 in float32; Pillow resizes RGB by BICUBIC unless told otherwise.
    pair = [torch.from_numpy(np.asarray(image, np.float32) / 255.0) for image in (RESULT.resize(TARGET.size), TARGET)]
    assert found["l1"] == pytest.approx(torch.nn.L1Loss()(*pair).item(), rel=1e-5)
    assert found["l2"] == pytest.approx(torch.nn.MSELoss()(*pair).item(), rel=1e-5)
    by_hand = (await tested.evaluate(EditSample("x", SOURCE, grey(51), grey(102)))).aspects
    assert by_hand == {"l1": pytest.approx(0.2), "l2": pytest.approx(0.04)}


async def test_magicbrush_compares_with_the_target(models: dict[str, Any]) -> None:
    tested = ProtocolMeasures("magicbrush", **models)
    same = await tested.evaluate(EditSample("x", SOURCE, TARGET.copy(), TARGET, metadata=CAPTIONS))
    assert same.aspects == {**same.aspects, "clip-i": pytest.approx(1.0), "dino": pytest.approx(1.0), "l1": 0.0}
    assert same.value == pytest.approx(100.0)
    other = await tested.evaluate(EditSample("x", SOURCE, RESULT, TARGET))
    assert -1 <= other.aspects["clip-i"] < 1
    assert -1 <= other.aspects["dino"] < 1
    # The splits on the hub have no captions.
    assert "clip-t" in same.aspects
    assert "clip-t" not in other.aspects
    with pytest.raises(EvaluatorError, match="compares with a target"):
        await tested.check_sample(EditSample("x", SOURCE, None))
    with pytest.raises(EvaluatorError, match="no result"):
        await tested.evaluate(EditSample("x", SOURCE, None, TARGET))


async def test_dino_takes_the_first_token_of_the_square_in_the_middle(models: dict[str, Any]) -> None:
    import torch
    from torchvision.transforms import v2
    from transformers import ViTModel

    transform = v2.Compose(
        [
            v2.Resize(37, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    model = ViTModel.from_pretrained(models["dino"], add_pooling_layer=False)
    with torch.inference_mode():
        tokens = [model(pixel_values=transform(i)[None]).last_hidden_state[0, 0] for i in (RESULT, TARGET)]
    expected = torch.nn.functional.cosine_similarity(tokens[0], tokens[1], dim=0).item()
    tested = ProtocolMeasures("magicbrush", ["dino"], **models)
    found = await tested.evaluate(EditSample("x", SOURCE, RESULT, TARGET))
    assert found.aspects["dino"] == pytest.approx(expected, abs=1e-4)


async def test_emu_edit_compares_with_the_source(models: dict[str, Any]) -> None:
    tested = ProtocolMeasures("emu-edit", **models)
    copy = await tested.evaluate(EditSample("x", SOURCE, SOURCE.copy(), metadata=CAPTIONS))
    assert copy.aspects == {**copy.aspects, "clip-img": pytest.approx(1.0), "dino": pytest.approx(1.0)}
    assert (copy.aspects["l1"], copy.aspects["clip-dir"]) == (0.0, 0.0)
    edited = await tested.evaluate(EditSample("x", SOURCE, RESULT, metadata=CAPTIONS))
    swapped = {"source_caption": CAPTIONS["target_caption"], "target_caption": CAPTIONS["source_caption"]}
    back = await tested.evaluate(EditSample("x", SOURCE, RESULT, metadata=swapped))
    assert edited.aspects["clip-dir"] == pytest.approx(-back.aspects["clip-dir"], abs=1e-6)
    equal = await tested.evaluate(EditSample("x", SOURCE, RESULT, metadata=dict.fromkeys(CAPTIONS, "a rocket")))
    assert "clip-dir" not in equal.aspects
    assert "clip-out" in equal.aspects


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'l1'"):
        ProtocolMeasures("magicbrush", ["l11"])
    with pytest.raises(ConfigError, match="judged, not measured"):
        ProtocolMeasures("gedit")
    with pytest.raises(ConfigError, match=r"config\.json"):
        ProtocolMeasures("magicbrush", ["clip-i"], clip=str(tmp_path))


def test_figures_are_means_over_the_samples_that_have_them() -> None:
    rows = [Row("a", "edit", {"l1": 0.1, "clip-t": 0.3}, {}), Row("b", "edit", {"l1": 0.3}, {})]
    found = {f["name"]: (f["mean"], f["tasks"]) for f in map(figure, measures(rows))}
    assert found == {"l1": (0.2, 2), "clip-t": (0.3, 1)}


def test_a_square_is_cut_from_any_shape() -> None:
    from agentfly.evaluation.protocols.measured import _prepared

    for size in ((100, 100), (31, 200), (640, 33)):
        assert _prepared(Image.new("RGB", size), 32).shape == (3, 32, 32)
