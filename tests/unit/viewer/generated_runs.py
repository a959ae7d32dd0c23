"""Made-up runs of image generation, by the writers that the commands use."""

from __future__ import annotations

import asyncio
from pathlib import Path

from PIL import Image

from agentfly.systems.director_generator.folder import RunFolder
from agentfly.systems.director_generator.records import CallRecord, ImageRecord, PhaseRecord, RunRecord
from agentfly.systems.generators import GeneratedImage, Usage
from agentfly.systems.refinement.command import ImageFiles, report, write_report
from agentfly.systems.refinement.loop import Iteration, LoopEnd, Refinement
from agentfly.systems.refinement.settings import RefinementSettings

COLOURS = ("red", "blue", "green", "orange")


def refinement_run(folder: Path, prompt: str = "a red star", side: int = 64) -> Path:
    """Write the folder of `agentfly generate`: three iterations, of which the second has no image."""
    settings = RefinementSettings(generator="classical", size="auto", input_price=1.0, output_price=2.0)
    done, files = Refinement(prompt, end=LoopEnd.THRESHOLD, seconds=12.5), ImageFiles(folder, settings)
    for number, (score, words) in enumerate(((40.0, "Dull."), (None, ""), (92.0, "Fine.")), 1):
        one = Iteration(number, prompt if number == 1 else f"{prompt}, version {number}", "classical")
        one.seconds = {"generate": 1.5, "evaluate": 0.5}
        if score is None:
            one.fault = "refused: moderation"
        else:
            one.image = GeneratedImage(Image.new("RGB", (side, side), COLOURS[number]))
            one.score, one.feedback, one.aspects = score, words, {"light": 0.5}
        done.iterations.append(one)
        asyncio.run(files.add(one))
    done.usage["judge"] = Usage(2, 900, 60)
    asyncio.run(write_report(report(done, files.paths, settings), folder))
    return folder


def studio_run(folder: Path, run: str = "20300101-000000-boat-abcdef", rounds: int = 2, *, ended: bool = True) -> Path:
    """Write a run of two directors and two generators, and return its record."""
    people = {
        "directors": [{"name": "Story", "persona": "You direct for meaning."}, {"name": "Light"}],
        "generators": [{"name": "Plain", "persona": "You write plainly."}],
    }
    record = RunRecord(run, "a red boat", people, "2030-01-01T00:00:00+00:00")
    watcher = RunFolder(folder, run)
    brief = CallRecord("director", "Story", "m", "client", "", "", data={"brief": "A whole boat."}, prompt_tokens=10)
    record.phases.append(PhaseRecord("brief", 0, [brief], seconds=2.0))
    for loop in range(1, rounds + 1):
        phase = PhaseRecord("paint", loop, seconds=3.0)
        record.phases.append(phase)
        for place, who in enumerate(("Plain", "Lush")):
            image = ImageRecord(
                loop, who, f"boat {loop}", "text", 7 + place, "mock", f"img_{loop}{place}", score=50.0 + loop
            )
            image.critiques = {"Story": {"score": 50.0 + loop, "feedback": "The boat is cut off."}}
            if place and loop == 1:
                image.handle, image.score, image.critiques, image.fault = None, None, {}, "no image server"
            made = None if image.fault else Image.new("RGB", (64, 48), COLOURS[loop % 4])
            watcher.painted(phase, image, made)
            phase.images.append(image)
        watcher.phase_ended(record)
    if ended:
        record.status, record.seconds = "max_loops", 9.0
        watcher.phase_ended(record)
    watcher.close()
    return watcher.result
