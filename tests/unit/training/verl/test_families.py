"""verl's own forward of each family that it trains: the log-probs of the model, and a gradient for every weight."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import TrainingError
from agentfly.images import ImageStore
from agentfly.messages import ImagePart, Message, TextPart, text_message
from agentfly.templates import ChatCodec, load_template
from agentfly.templates.families import FAMILIES, find_family
from agentfly.training.verl.parity import ImageInputs
from tests.tiny.families import BUILDERS, build_family

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TRAINED = [
    model_type
    for family in FAMILIES.values()
    for model_type, support in family.support.items()
    if support.goal == "trained" and model_type in BUILDERS
]


@pytest.fixture
def restored() -> Iterator[list[Any]]:
    """Modules of transformers in which verl replaces methods, which are put back."""
    modules: list[Any] = []
    saved: list[tuple[type, dict[str, Any]]] = []
    names = ("forward", "fast_pos_embed_interpolate")

    class Watched(list[Any]):
        def append(self, module: Any) -> None:
            super().append(module)
            found = [kind for kind in vars(module).values() if isinstance(kind, type) and hasattr(kind, "forward")]
            saved.extend((kind, {name: vars(kind)[name] for name in names if name in vars(kind)}) for kind in found)

    modules = Watched()
    yield modules
    for kind, methods in saved:
        for name, method in methods.items():
            setattr(kind, name, method)


def chain(codec: ChatCodec) -> tuple[list[int], list[str], list[Image.Image]]:
    """Two images of different shapes in the prompt, one in a tool turn."""
    store, noise = ImageStore(), np.random.default_rng(0).integers(0, 255, (200, 120, 3), np.uint8)
    handles = [store.put(Image.fromarray(noise)), store.put(Image.fromarray(noise[:60].repeat(3, axis=1)))]
    asked = Message("user", (*map(ImagePart, handles), TextPart("Make it brighter.")))
    seen = Message("tool", (TextPart("Done: "), ImagePart(handles[0])))
    messages = [asked, text_message("assistant", "I look."), seen]
    shown = [*handles, handles[0]]
    return codec.prompt_ids(messages, (), store.get), shown, [store.get(handle) for handle in shown]


@pytest.mark.parametrize("model_type", TRAINED)
def test_verls_forward_gives_the_models_log_probs(model_type: str, tmp_path: Path, restored: list[Any]) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText
    from verl.models.transformers.monkey_patch import apply_monkey_patch
    from verl.utils import hf_processor

    from agentfly.training.verl import text_chains  # noqa: F401  (as every run does)
    from agentfly.training.verl.loop_worker import AgentFlyLoopWorker

    family = find_family(model_type)
    assert family is not None
    path = build_family(model_type, tmp_path / model_type, load_template(family.templates[0]))
    bare = AgentFlyLoopWorker.__new__(AgentFlyLoopWorker)
    bare.processor = hf_processor(str(path))
    codec = ChatCodec(bare.processor)
    assert codec.family == family
    listed, handles, images = chain(codec)
    ids = torch.tensor([listed])
    inputs = ImageInputs(codec).of(handles, images, ids)
    everything = torch.ones_like(ids)
    positions = bare._compute_position_ids(ids, everything, dict(inputs)).transpose(0, 1)
    assert family.positions == "mrope"
    assert positions.shape == (4, 1, ids.shape[1])

    base = model_type.removesuffix("_moe")
    for name in (base, f"{base}_moe"):  # verl patches both at once
        if importlib.util.find_spec(f"transformers.models.{name}") is not None:
            restored.append(importlib.import_module(f"transformers.models.{name}.modeling_{name}"))
    model = AutoModelForImageTextToText.from_pretrained(
        path, config=AutoConfig.from_pretrained(path), dtype=torch.float32
    )
    own = {name: value for name, value in inputs.items() if name != "images_seqlens"}
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=everything, **own).logits
    apply_monkey_patch(model=model, use_remove_padding=False, ulysses_sp_size=1)
    given = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    logits = model(input_ids=ids, attention_mask=everything, position_ids=positions, use_cache=False, **given).logits
    torch.testing.assert_close(logits.log_softmax(-1), expected.log_softmax(-1), atol=1e-3, rtol=0)
    torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None]).mean().backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert missing == []
    # Without images, too: every part that is sharded has to take part.
    words = torch.tensor([codec.tokenizer("Make it brighter.")["input_ids"]])
    count = torch.arange(words.shape[1]).expand(4, 1, -1)
    model.zero_grad(set_to_none=True)
    model(
        input_ids=words, attention_mask=torch.ones_like(words), position_ids=count, use_cache=False
    ).logits.sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None and "visual" in name] == []


def test_a_family_that_verl_does_not_train_has_no_trainer_inputs(tmp_path: Path) -> None:
    path = build_family("mistral3", tmp_path / "m", load_template("mistral3"))
    codec = ChatCodec.from_pretrained(str(path))
    with pytest.raises(TrainingError, match="Mistral 3, Pixtral cannot be trained with verl"):
        ImageInputs(codec).of([], [], torch.tensor([[1]]))
