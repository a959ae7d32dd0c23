"""GroundingDINO and MM-Grounding-DINO, half a million parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.tokenizers import bert_tokenizer


def _settings(tokens: int) -> dict[str, Any]:
    from transformers import BertConfig, SwinConfig

    return {
        "backbone_config": SwinConfig(
            image_size=64,
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4],
            window_size=7,
            out_features=["stage2", "stage3", "stage4"],
        ),
        "text_config": BertConfig(
            vocab_size=tokens,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=256,
        ),
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_layers": 2,
        "decoder_ffn_dim": 64,
        "decoder_attention_heads": 4,
        "num_queries": 50,
        "num_feature_levels": 4,
        "max_text_len": 64,
        "disable_custom_kernels": True,
    }


def _save(model: Any, folder: Path) -> Path:
    from transformers import GroundingDinoImageProcessor, GroundingDinoProcessor

    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 128})
    model.eval().save_pretrained(folder)
    GroundingDinoProcessor(images, bert_tokenizer()).save_pretrained(folder)
    return folder


def grounding_dino(folder: Path) -> Path:
    """`GroundingDinoForObjectDetection`."""
    import torch
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    torch.manual_seed(0)
    config = GroundingDinoConfig(text_enhancer_dropout=0.0, **_settings(len(bert_tokenizer())))
    return _save(GroundingDinoForObjectDetection(config), folder)


def mm_grounding_dino(folder: Path) -> Path:
    """`MMGroundingDinoForObjectDetection`."""
    import torch
    from transformers import MMGroundingDinoConfig, MMGroundingDinoForObjectDetection

    torch.manual_seed(0)
    config = MMGroundingDinoConfig(**_settings(len(bert_tokenizer())))
    return _save(MMGroundingDinoForObjectDetection(config), folder)


def groundingdino_py(folder: Path) -> Path:
    """A checkpoint of the package groundingdino-py: `model.pth`, `config.py` and a tiny BERT in `bert/`.

    Its Swin-T and its width are fixed in the code, so this one has 33 million parameters.
    """
    import groundingdino
    import torch
    from groundingdino.models import build_model
    from groundingdino.util import get_tokenlizer
    from groundingdino.util.slconfig import SLConfig
    from transformers import BertConfig, BertModel

    from agentfly.vision.detection.groundingdino_py import bert_with_old_masks

    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=len(bert_tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    BertModel(bert).save_pretrained(folder / "bert")
    bert_tokenizer().save_pretrained(folder / "bert")
    packaged = Path(groundingdino.__file__).parent / "config" / "GroundingDINO_SwinT_OGC.py"
    text = packaged.read_text(encoding="utf-8").replace("bert-base-uncased", str(folder / "bert"))
    # A small image has fewer places than 900 queries.
    text = text.replace("num_queries = 900", "num_queries = 50")
    (folder / "config.py").write_text(text, encoding="utf-8")
    arguments = SLConfig.fromfile(str(folder / "config.py"))
    arguments.device = "cpu"
    get_tokenlizer.BertModel = bert_with_old_masks()
    torch.save({"model": build_model(arguments).state_dict()}, folder / "model.pth")
    return folder
