"""The engines of `gpu.py`: Qwen-Image-Edit of the real size, detectors, and the image server beside direct calls."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import gpu_models
import torch
from gpu_bench import Bench
from PIL import Image

from agentfly.vision.base import EditParams
from agentfly.vision.detection.grounding_dino import GroundingDinoDetector, GroundingDinoSettings
from agentfly.vision.detection.segmentation import SamSegmenter, SamSettings
from agentfly.vision.diffusion import DiffusionEditor, EditorSettings
from agentfly.vision.diffusion.pipelines import Weights
from agentfly.vision.remote.load_test import make_image

Run = Callable[[Coroutine[Any, Any, Any]], Any]
TOGETHER = 4
# Steps and guidance: a Lightning LoRA has 4 or 8 steps without guidance, the model itself 40 with it.
WAYS = ((4, 1.0), (8, 1.0), (40, 4.0))


def _dtype(bench: Bench) -> torch.dtype:
    return torch.float32 if bench.device == "cpu" else torch.bfloat16


def engines_part(bench: Bench) -> None:
    """Measure the editor at two sizes, its batches, the detector and the segmenter."""
    with bench.of("QwenImageEdit"):
        _editor(bench)
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        with bench.of("GroundingDINO base"):
            _detector(bench, Path(folder), runner.run)
        with bench.of("SAM base"):
            _segmenter(bench, Path(folder), runner.run)


async def _edits(editor: DiffusionEditor, image: Image.Image, count: int, steps: int, scale: float) -> None:
    orders = [EditParams(num_inference_steps=steps, true_cfg_scale=scale, seed=number) for number in range(count)]
    await asyncio.gather(*(editor.edit(image, "a blue star", order) for order in orders))


def _editor(bench: Bench) -> None:
    if not bench.room("edits"):
        return
    pipeline = gpu_models.qwen_image_edit(bench.device, _dtype(bench), tiny=bench.tiny)
    with asyncio.Runner() as runner:
        for side in (32,) if bench.tiny else (512, 1024):
            settings = EditorSettings(
                model="QwenImageEdit", device=bench.device, area=side * side, max_batch=TOGETHER, batch_window_ms=50
            )
            editor = DiffusionEditor(settings, Weights(settings.weights, pipeline))

            for steps, scale in ((2, 1.0), (2, 4.0)) if bench.tiny else WAYS:
                _measure_edits(bench, runner, editor, 1, steps, scale, side)
            _measure_edits(bench, runner, editor, TOGETHER, 2 if bench.tiny else 8, 1.0, side)
            editor.close()


def _measure_edits(
    bench: Bench, runner: asyncio.Runner, editor: DiffusionEditor, count: int, steps: int, scale: float, side: int
) -> None:
    image, _ = make_image(side)
    together = f"{count} edits at once" if count > 1 else "edit"
    what = f"{together} {side}x{side}, {steps} steps, guidance {scale:g}"
    calls = 1 if steps > 8 else 2
    bench.measure(what, lambda: runner.run(_edits(editor, image, count, steps, scale)), calls=calls, images=count)


def _detector(bench: Bench, folder: Path, run: Run) -> None:
    if not bench.room("detect"):
        return
    path = gpu_models.save_grounding_dino(folder / "dino", tiny=bench.tiny)
    detector = GroundingDinoDetector(GroundingDinoSettings(model=str(path), device=bench.device))
    image, _ = make_image(64 if bench.tiny else 1024)

    def detect() -> object:
        return run(detector.detect(image, "a red circle. a blue star.", box_threshold=0.3, text_threshold=0.25))

    bench.measure("detect in an image of 1024x1024", detect, calls=5, images=1)


def _segmenter(bench: Bench, folder: Path, run: Run) -> None:
    if not bench.room("outline"):
        return
    path = gpu_models.save_sam(folder / "sam", tiny=bench.tiny)
    segmenter = SamSegmenter(SamSettings(model=str(path), device=bench.device))
    side = 64 if bench.tiny else 1024
    image, _ = make_image(side)
    boxes = [(0, 0, side // 2, side // 2), (side // 4, side // 4, side, side)]
    bench.measure("outlines of 2 boxes", lambda: run(segmenter.segment(image, boxes)), calls=5, images=1)


def server_part(bench: Bench) -> None:
    """Measure the image server against direct calls, on a Qwen-Image-Edit of few layers that a disk can hold."""
    import image_server

    with bench.of("QwenImageEdit, 6 layers"), tempfile.TemporaryDirectory() as folder:
        if not bench.room("server against direct calls"):
            return
        pipeline = gpu_models.qwen_image_edit(bench.device, _dtype(bench), tiny=bench.tiny, layers=6)
        pipeline.save_pretrained(folder)
        del pipeline
        plan = image_server.Plan("qwen", folder, bench.device, calls=8, rounds=2, steps=2, size=512, concurrency=4)
        if bench.tiny:
            plan = image_server.Plan("qwen", folder, bench.device, calls=2, rounds=1, steps=2, size=64, concurrency=2)
        timings = asyncio.run(image_server.through_the_server(plan, {}))
        for name, rounds in timings.items():
            rate = statistics.median(one.per_second for one in rounds)
            p50 = statistics.median(one.p50 for one in rounds)
            bench.add(f"{plan.size}x{plan.size}, {plan.steps} steps: {name}", images_per_second=rate, p50_seconds=p50)
