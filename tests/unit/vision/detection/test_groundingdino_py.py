"""The adapter for groundingdino-py: the three methods that its BERT needs, and the way from image to boxes.

The package itself is optional; `test_grounding_dino.py` runs it beside the other detectors where it is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import ConfigError, MissingExtraError, ToolError
from agentfly.vision.detection import groundingdino_py
from agentfly.vision.detection.groundingdino_py import (
    GroundingDinoPyDetector,
    GroundingDinoPySettings,
    bert_with_old_masks,
)

torch = pytest.importorskip("torch")


def tiny_bert() -> Any:
    from transformers import BertConfig

    torch.manual_seed(0)
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    return bert_with_old_masks()(config).eval()


def borrowed(bert: Any, mask: Any) -> Any:
    """A forward pass as the package does it: the parts of BERT, with the borrowed methods."""
    ids = torch.tensor([[3, 4, 5, 6]])
    extended = bert.get_extended_attention_mask(mask, ids.shape, ids.device)
    heads = bert.get_head_mask(None, bert.config.num_hidden_layers)
    with torch.no_grad():
        embedded = bert.embeddings(input_ids=ids, past_key_values_length=0)
        return bert.encoder(embedded, attention_mask=extended, head_mask=heads, return_dict=True)[0]


def test_a_padding_mask_gives_what_bert_itself_gives() -> None:
    bert, mask = tiny_bert(), torch.tensor([[1, 1, 1, 0]])
    with torch.no_grad():
        expected = bert(input_ids=torch.tensor([[3, 4, 5, 6]]), attention_mask=mask).last_hidden_state
    assert torch.allclose(borrowed(bert, mask)[:, :3], expected[:, :3], atol=1e-5)


def test_a_mask_between_phrases_keeps_them_apart() -> None:
    bert = tiny_bert()
    blocks = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()[None]
    apart, together = borrowed(bert, blocks), borrowed(bert, torch.ones(1, 4, 4).bool())
    assert not torch.allclose(apart, together, atol=1e-3)
    assert torch.isfinite(apart).all()


def test_cross_attention_masks_are_inverted() -> None:
    inverted = tiny_bert().invert_attention_mask(torch.tensor([[1, 0]]))
    assert inverted.shape == (1, 1, 1, 2)
    assert inverted.flatten().tolist() == [0.0, torch.finfo(torch.float32).min]


class Recorder(torch.nn.Module):  # type: ignore[name-defined]  # importorskip hides the module
    """Stands in for the package's model: two boxes, one sure and one not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[Any] = []
        self.tokenizer = lambda caption: {"input_ids": [0, 1, 2, 3]}

    def forward(self, pixels: Any, captions: list[str]) -> dict[str, Any]:
        self.seen.append((tuple(pixels.shape), captions))
        logits = torch.logit(torch.tensor([[[0.1, 0.9, 0.2, 0.1], [0.1, 0.3, 0.2, 0.1]]]))
        return {"pred_logits": logits, "pred_boxes": torch.tensor([[[0.5, 0.5, 0.25, 0.5], [0.2, 0.2, 0.1, 0.1]]])}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The package's modules as far as the adapter uses them."""
    model, arguments = Recorder(), SimpleNamespace(text_encoder_type="bert-base-uncased", device="cuda")
    words = ["[CLS]", "cat", "dog", "."]
    contents: dict[str, dict[str, Any]] = {
        "groundingdino": {"__file__": str(tmp_path / "groundingdino" / "__init__.py")},
        "groundingdino.models": {"build_model": lambda given: model},
        "groundingdino.util": {},
        "groundingdino.util.get_tokenlizer": {},
        "groundingdino.util.misc": {"clean_state_dict": lambda state: state},
        "groundingdino.util.slconfig": {"SLConfig": SimpleNamespace(fromfile=lambda path: arguments)},
        "groundingdino.util.utils": {
            "get_phrases_from_posmap": lambda row, tokens, tokenizer: " ".join(
                words[i] for i in row.nonzero()[:, 0].tolist()
            )
        },
    }
    modules = {name: ModuleType(name) for name in contents}
    for name, values in contents.items():
        vars(modules[name]).update(values)
        monkeypatch.setitem(sys.modules, name, modules[name])
    vars(modules["groundingdino.util"])["get_tokenlizer"] = modules["groundingdino.util.get_tokenlizer"]
    monkeypatch.setattr(groundingdino_py, "require", lambda *needs: None)
    torch.save({"model": {"weight": torch.ones(1)}}, tmp_path / "model.pth")
    return SimpleNamespace(model=model, arguments=arguments, modules=modules, weights=str(tmp_path / "model.pth"))


async def test_boxes_come_back_in_pixels_of_the_image(package: SimpleNamespace) -> None:
    settings = GroundingDinoPySettings(model=package.weights, text_encoder="somewhere/bert", device="cpu")
    detector = GroundingDinoPyDetector(settings)
    image = Image.fromarray(np.zeros((100, 200, 3), np.uint8))
    found = await detector.detect(image, "Cat. Dog", box_threshold=0.5, text_threshold=0.25)
    assert [(one.label, one.box) for one in found] == [("cat", (75, 25, 125, 75))]
    assert found[0].score == pytest.approx(0.9)
    assert found.best_rejected == pytest.approx(0.3)
    # The shorter side becomes 800 unless the longer one would pass 1333.
    assert package.model.seen == [((1, 3, 666, 1333), ["cat. dog."])]
    assert detector.name == "groundingdino-py model.pth"


async def test_a_prompt_that_the_package_would_cut_is_an_observation(package: SimpleNamespace) -> None:
    package.model.tokenizer = lambda caption: {"input_ids": [0] * caption.count(".")}
    detector = GroundingDinoPyDetector(GroundingDinoPySettings(model=package.weights, device="cpu"))
    image = Image.fromarray(np.zeros((100, 200, 3), np.uint8))
    with pytest.raises(ToolError, match="has 257 tokens and the detector takes 256"):
        await detector.detect(image, "cat. " * 257, box_threshold=0.5, text_threshold=0.25)
    assert package.model.seen == []


async def test_its_bert_is_replaced_where_it_looks_for_it_and_nowhere_else(package: SimpleNamespace) -> None:
    import transformers

    before = transformers.BertModel
    GroundingDinoPyDetector(
        GroundingDinoPySettings(model=package.weights, text_encoder="somewhere/bert", device="cpu")
    ).load()
    assert package.modules["groundingdino.util.get_tokenlizer"].BertModel is bert_with_old_masks()
    assert transformers.BertModel is before
    assert (package.arguments.text_encoder_type, package.arguments.device) == ("somewhere/bert", "cpu")
    assert package.model.weight.item() == 1.0
    assert not package.model.training


def test_a_missing_file_and_a_name_without_file_are_refused(package: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        GroundingDinoPyDetector(GroundingDinoPySettings(model="/nowhere/model.pth"))
    with pytest.raises(ConfigError, match="name repository and file"):
        GroundingDinoPyDetector(GroundingDinoPySettings(model="owner/repository", device="cpu")).load()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[groundingdino\]"):
        GroundingDinoPyDetector()
