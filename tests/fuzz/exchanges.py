"""Hostile requests to servers, replies of servers, and rows of data sets."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from random import Random

from PIL import Image

from tests.fuzz.images import SOURCES, encoded, file
from tests.fuzz.texts import FORMS, TOOL_NAMES, WORDS, Make, dumped, mutated, number, text, value

# Path, content type, body, and whether the client leaves before the answer.
Request = tuple[str, str, bytes, bool]
_FILE_NAME = '; filename="a.png"'
_EDITS = "/v1/images/edits"
_PATHS = (_EDITS, f"{_EDITS}/upload", "/v1/images/generations", "/v1/detections", "/health", "/\ud800")
_FIELDS = (
    "prompt",
    "image",
    "image[]",
    "image[0]",
    "images",
    "images[]",
    "mask",
    "mask[]",
    "n",
    "size",
    "seed",
    "timeout",
    "strength",
    "\ud800",
)


def fields(random: Random) -> dict[str, object]:
    """Return fields of a request, mostly enough of them for an edit."""

    def item() -> object:
        return random.choice((value(random), value(random), base64.b64encode(file(random)).decode(), "darken", 1e-9, 2))

    made = {random.choice(_FIELDS): item() for _ in range(random.randrange(6))}
    if random.random() < 0.7:
        made |= {"prompt": "darken", "image": base64.b64encode(file(random)).decode()}
    return made


def form(random: Random) -> bytes:
    """Return fields as a form, whose files may be texts and the other way round."""
    parts = []
    for name, item in fields(random).items():
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"{random.choice(("", _FILE_NAME))}'
        content = file(random) if random.random() < 0.5 else str(item).encode("utf-8", "replace")
        parts.append(f"{head}\r\n\r\n".encode("utf-8", "replace") + content + b"\r\n")
    return b"".join(parts) + b"--b--\r\n"


def body(random: Random) -> bytes:
    """Return fields as JSON."""
    return json.dumps(fields(random), default=repr).encode()


def hurried(random: Random) -> Request:
    """Return a good edit whose client hardly waits."""
    content = {"prompt": "blur", "image": base64.b64encode(encoded(Image.new("RGB", (32, 32), "red"))).decode()}
    seconds = random.choice((1e-9, 1e-4, 1e-3, 0.01, 30))
    return _EDITS, "application/json", json.dumps({**content, "timeout": seconds}).encode(), random.random() < 0.3


REQUESTS: list[Make[Request]] = [
    hurried,
    lambda random: (random.choice(_PATHS), "application/json", body(random), random.random() < 0.2),
    lambda random: (random.choice(_PATHS), "multipart/form-data; boundary=b", form(random), random.random() < 0.2),
    lambda random: (_EDITS, "application/json", mutated(random, body(random)), False),
    lambda random: (_EDITS, "multipart/form-data; boundary=b", mutated(random, form(random)), False),
    lambda random: (_EDITS, random.choice(("multipart/form-data", "text/plain", "")), body(random), False),
]

# Status, content type and body of a reply. KEY is what the client sends; servers repeat it.
Reply = tuple[int, str, bytes]
KEY = "sk-fuzz-0123456789abcdef"
LABELS = ("cat", "a dog", "", 7, None, ["cat"])


def _bytes(random: Random, made: object) -> bytes:
    return dumped(random, made).encode("utf-8", "replace")


def altered(random: Random, made: object) -> object:
    """Return JSON in which a few values are others, are gone, or stand in a list of their own."""
    if random.random() < 0.04:
        return random.choice((value(random), None, [made], str(made), {"text": made}, {"error": made}))
    if isinstance(made, dict):
        return {name: altered(random, item) for name, item in made.items() if random.random() < 0.97}
    return [altered(random, item) for item in made] if isinstance(made, list) else made


def boxes(random: Random) -> str:
    """Return what a vision-language model says of the objects that it sees."""

    def box() -> object:
        name = random.choice(("bbox_2d", "box_2d", "bbox", "boxes", "coordinates", "box"))
        side: Make[object] = random.choice((lambda random: random.randrange(1200), Random.random, number))
        corners: object = [side(random) for _ in range(random.choice((4, 4, 4, 4, 2, 8)))]
        entry = {name: random.choice((corners, corners, [corners], str(corners))), "label": random.choice(LABELS)}
        return entry | {"score": random.choice((0.9, number(random)))}

    made = altered(random, [box() for _ in range(random.randrange(4))])
    said = random.choice((*FORMS, "{}", "Here: {} [1]")).replace("{}", dumped(random, made))
    return said if random.random() < 0.8 else mutated(random, said)


def ratings(random: Random) -> str:
    """Return what a judge says."""
    names = ("success", "no_over_edit", "natural", "artefact_free", "score", "kept")
    made = {name: random.choice((7, 7, 10, "8/10", number(random))) for name in names} | {
        "feedback": random.choice(WORDS)
    }
    said = random.choice((*FORMS, "{}")).replace("{}", dumped(random, altered(random, made)))
    return said if random.random() < 0.8 else mutated(random, said)


def spoken(random: Random) -> object:
    """Return the content of a message."""
    said = random.choice((text, boxes, ratings, ratings))(random)
    parts = [{"type": kind, "text": said} for kind in ("text", "thinking", "output_text", "image")]
    return random.choice((said, said, said, random.sample(parts, 2), parts[0], "", None))


def message(random: Random) -> dict[str, object]:
    """Return a message, or a piece of one."""
    made: dict[str, object] = {"role": random.choice(("assistant", "", None)), "content": spoken(random)}
    if random.random() < 0.5:
        made["tool_calls"] = [_native(random) for _ in range(random.randrange(3))]
    if random.random() < 0.3:
        made[random.choice(("reasoning_content", "reasoning", "refusal", "function_call"))] = spoken(random)
    return made


def _native(random: Random) -> dict[str, object]:
    arguments = random.choice((dumped(random, {"final_image_id": "img_1"}), dumped(random, value(random)), {"a": 1}))
    function = {"name": random.choice((*TOOL_NAMES, None)), "arguments": arguments}
    index = random.choice((0, 0, 1, 10**9, None))
    return {
        "index": index,
        "id": random.choice(("call_0", "call_1", "", None)),
        "type": "function",
        "function": function,
    }


def _choice(random: Random, key: str) -> dict[str, object]:
    finish = random.choice(("stop", "stop", "tool_calls", "length", "error", "content_filter", "", None))
    token = {"token": random.choice((*WORDS, "7", "10")), "logprob": random.choice((-0.1, number(random)))}
    tokens = [token | {"top_logprobs": [token, token]} for _ in range(random.randrange(3))]
    return {"index": 0, key: message(random), "finish_reason": finish, "logprobs": {"content": tokens}}


def _usage(random: Random) -> dict[str, object]:
    return {name: random.choice((7, number(random))) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def completion(random: Random) -> object:
    """Return a whole answer of a chat endpoint."""
    made = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "usage": _usage(random)}
    return altered(random, made | {"choices": [_choice(random, "message")]})


def stream(random: Random) -> bytes:
    """Return a streamed answer of a chat endpoint."""
    lines = []
    for place in range(random.randrange(6)):
        made = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        made |= {"choices": [_choice(random, "delta")], "usage": _usage(random) if place > 3 else None}
        made["choices"][0]["finish_reason"] = random.choice((None, None, None, "stop", "tool_calls"))  # type: ignore[index]
        lines.append(f"data: {dumped(random, altered(random, made))}")
    lines += [random.choice((": ping", "data: [DONE]", "data: ", "event: error\ndata: {}", f"data: {refusal(random)}"))]
    return "\n\n".join([*lines, "data: [DONE]", ""]).encode("utf-8", "replace")


def refusal(random: Random) -> str:
    """Return the body of an error, in some server's form."""
    reasons = ("unsupported parameter: 'max_completion_tokens'", "temperature and top_p cannot both be set", *WORDS)
    said = f"{random.choice(reasons)} key {KEY}"
    code = random.choice((429, "rate_limit_exceeded", "unsupported_parameter", 400, value(random)))
    error: object = random.choice((said, [said], {"message": said, "code": code, "param": "top_p"}))
    place = {"detail": [{"loc": ["body", "seed"], "msg": said, "type": "extra_forbidden"}]}
    return dumped(random, altered(random, random.choice(({"error": error}, [{"error": error}], place, error))))


def chat_reply(random: Random) -> Reply:
    """Return a reply of a chat endpoint, whole or streamed, good or not."""
    sort = random.randrange(10)
    if sort < 5:
        body, kind, status = _bytes(random, completion(random)), "application/json", 200
    elif sort < 8:
        body, kind, status = stream(random), "text/event-stream", 200
    else:
        status = random.choice((200, 400, 401, 404, 422, 429, 500, 502, 503))
        body, kind = refusal(random).encode("utf-8", "replace"), random.choice(("application/json", "text/html"))
    if random.random() < 0.1:
        body = random.choice((mutated(random, body), b"", b"<html>", b"null", b"\xff\xfe"))
    return status, kind, body


def image_reply(random: Random) -> bytes:
    """Return a reply of an image server: an image, objects, or its models."""
    good = base64.b64encode(encoded(Image.new("L", (24, 18), 255))).decode()

    def picture() -> object:
        kind = random.choice(("base64", "base64", "data URIs", "addresses", "values"))
        return random.choice((good, SOURCES[kind](random)))

    sides: list[object] = [0, 0, 9, 9]
    sides[random.randrange(4)] = random.choice((5, number(random)))
    found = {"label": random.choice(LABELS), "score": random.choice((0.5, number(random))), "box": sides}
    owner = {"id": "m", "owned_by": random.choice(("agentfly", "openai", value(random)))}
    entry = random.choice(({"b64_json": picture()}, {"url": picture()}, found, found | {"mask": picture()}, owner))
    made = {"data": [entry], "best_rejected": random.choice((0.2, number(random)))}
    body = _bytes(random, altered(random, made))
    return body if random.random() < 0.8 else mutated(random, body)


def row(random: Random) -> object:
    """Return a row of a data set."""

    def picture() -> object:
        return random.choice(("good.png", "good.png", "mask.png", SOURCES["words"](random), SOURCES["base64"](random)))

    made = {"id": random.choice((*WORDS, 7)), "instruction": random.choice(("Darker.", *WORDS)), "image": picture()}
    for name, item in (("images", [picture()]), ("target", picture()), ("mask", {"path": picture()}), ("x", 1)):
        if random.random() < 0.3:
            made[name] = item
    made["metadata"] = random.choice(({}, "{}", {"checks": [{"gone": random.choice(WORDS)}]}, value(random)))
    return altered(random, made)


def rows(random: Random, good: Sequence[object]) -> tuple[bytes, bool]:
    """Return rows as JSON lines in any encoding, and True where no line can break another.

    Args:
        random: the source of all choices.
        good: rows, of which each follows a hostile one.
    """
    encoding = random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    lines = []
    for one in good:
        line = dumped(random, row(random))
        line = (mutated(random, line) if random.random() < 0.2 else line).replace("\n", " ")
        lines += [line, json.dumps(one)]
    content = "\n".join(lines).encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    return (content, encoding != "utf-16") if random.random() < 0.9 else (mutated(random, content), False)
