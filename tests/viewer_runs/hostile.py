"""A run of which every text, number and file tries to break a page."""

from __future__ import annotations

import json
import math
from pathlib import Path

from PIL import Image

from agentfly.agents import StopReason, ToolRecord, Trajectory, Turn
from agentfly.agents.tasks import TaskFacts
from agentfly.agents.token_check import TokenTrace
from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, TrajectoryLine, append_line
from agentfly.images import ImageStore
from agentfly.messages import ImagePart, Message, TextPart, ToolCall, text_message

SCRIPT = "<script>alert(1)</script>"
MARKUP = '"><img src=x onerror=alert(2)>'
CLOSING = "</textarea></style></script><!-- {{ 7 * 7 }} {% raw %} ${7 * 7} javascript:alert(3)"
RIGHT_TO_LEFT = "\u202eהסר את העיגול האדום\u2066 ‮evitcele"
LONE = "\ud800 alone \udfff"
NUL = "before\x00after\x1b[31m\u2028\u2029\ufeff"
TRAVERSAL = "../../../../etc/passwd"
LARGE = 1_000_000  # characters of one argument
TEXTS = {
    "script": SCRIPT,
    "markup": MARKUP,
    "closing": CLOSING,
    "right-to-left": RIGHT_TO_LEFT,
    "lone": LONE,
    "nul": NUL,
    "traversal": TRAVERSAL,
    "long word": "W" * 20_000,
    "empty": "",
}


def hostile_run(folder: Path) -> Path:
    """Write the run and return its folder.

    It has one chain for each of `TEXTS`, in which the text is id, type, instruction, reply, tool name, argument, error
    and answer; a chain with an argument of 1 MB; chains whose images are missing, damaged, exchanged, enormous or named
    by a path; and at its end a line that is no JSON object, one of a later version, and a torn one.
    """
    store = ImageStore(folder / IMAGES)
    source, result = store.put(Image.new("RGB", (64, 48), "red")), store.put(Image.new("RGB", (64, 48), "blue"))
    file = folder / FILE_NAME
    for number, (name, text) in enumerate(TEXTS.items()):
        append_line(file, _line(number, f"{name} {text}" if name != "empty" else "", text, source, result))
    append_line(file, _line(20, "large", "x", source, result, argument="A" * LARGE))
    append_line(file, _line(21, "no image", "The image is missing", "img_000000000000", "img_111111111111"))
    append_line(file, _line(22, "path", "The image is a path", TRAVERSAL, "/etc/passwd"))
    _break_images(folder, store, source)
    _write_raw(file, source, result)
    _write_metrics(folder)
    return folder


def _line(number: int, chain: str, text: str, source: str, result: str, argument: str | None = None) -> TrajectoryLine:
    arguments = {"image_id": "img_1", "prompt": text if argument is None else argument, text: [text, {text: math.nan}]}
    record = ToolRecord(
        text or "edit",
        arguments,
        math.inf,
        text,
        error=text if number % 2 else None,
        malformed=number % 3 == 0,
        data={"source": source, "mask": text, text: -math.inf},
        images=(result,),
        began=math.nan,
    )
    turn = Turn(text, text, -1.0, (record,), 0, 3, began=1e300)
    trajectory = Trajectory(
        id=chain,
        group_id=chain,
        messages=[
            Message("user", (TextPart("img_1: "), ImagePart(source), TextPart(text))),
            Message("assistant", (TextPart(text),), (ToolCall("c0", text or "edit", arguments),)),
            Message("tool", (TextPart(text), ImagePart(result)), tool_call_id="c0"),
            text_message("assistant", text),
        ],
        turns=[turn],
        images=[source, result],
        names={"img_1": source, "img_2": result, text: result},
        # Ids that no tokenizer has, log-probs that are none, and a mask that is too short.
        tokens=TokenTrace([1, 2], [3, -4, 10**12], [1, 0], [-0.5, math.nan, -math.inf]),
        stop_reason=StopReason.ANSWERED,
        final_image=result,
        answer=text,
        seconds=math.nan,
        score=(math.nan, math.inf, 50.0, -7.0, 1e308)[number % 5],
        aspects={text: math.nan},
        reward=(math.nan, -math.inf, 0.5)[number % 3],
        reward_parts={text: math.inf},
        metadata={"id": chain, text: text},
    )
    return TrajectoryLine(trajectory, TaskFacts(chain, text, text or "edit"), step=1, validate=False)


def _break_images(folder: Path, store: ImageStore, source: str) -> None:
    """Add chains whose files are damaged, exchanged, and a bomb of 400 million pixels in a few kilobytes."""
    file = folder / FILE_NAME
    for number, (name, colour) in enumerate((("damaged", "green"), ("exchanged", "yellow"), ("bomb", "pink"))):
        handle = store.put(Image.new("RGB", (40, 40), colour))
        path = folder / IMAGES / f"{handle}.png"
        if name == "damaged":
            path.write_bytes(path.read_bytes()[:60])
        elif name == "exchanged":
            Image.new("RGB", (40, 40), "black").save(path)
        else:
            Image.new("1", (20_000, 20_000)).save(path)
        append_line(file, _line(30 + number, f"{name} image", f"The image is {name}", source, handle))


def _write_raw(file: Path, source: str, result: str) -> None:
    line = json.loads(_line(40, "odd types", "x", source, result).to_json())
    line["trajectory"] |= {"score": "high", "turns": [], "reward_parts": {"edit": "much"}, "stop_reason": None}
    later = {**line, "format": "agentfly.trajectory/9"}
    deep = '{"trajectory": ' + "[" * 5000 + "]" * 5000 + "}"
    whole = [json.dumps(line), "[1, 2]", json.dumps(later), deep, "not JSON", "null", "{}"]
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(f"{text}\n" for text in whole)
        lines.write(json.dumps(line)[:200])  # torn


def _write_metrics(folder: Path) -> None:
    odd = {SCRIPT: 1.0, "reward/mean": math.nan, "timing_s/step": math.inf, "text": SCRIPT, "none": None, "list": [1]}
    lines = [
        json.dumps({"step": 1, "data": odd}),
        json.dumps({"step": 2, "data": {"reward/mean": 0.5, "critic/rewards/mean": 1e308}}),
        json.dumps({"step": "three", "data": {}}),
        "{}",
        "not JSON",
        json.dumps({"step": 3, "data": {"reward/mean": 0.6}})[:20],
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "config.yaml").write_text(f"agentfly: {{model: '{SCRIPT}', out: '{TRAVERSAL}'}}\n", encoding="utf-8")
