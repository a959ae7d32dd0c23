"""Hostile input: refused before anything is decoded, with a message that helps and tells nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.requests import Request

from agentfly.serving.errors import RequestRefused, ServerFault, error_response
from agentfly.serving.image_server import UploadLimits
from agentfly.serving.image_server.http.body import DetectionFields, EditFields, read_body, read_fields, read_size
from agentfly.serving.image_server.http.images import Coder
from agentfly.serving.request_data import HeldMemory, RequestMemory
from tests.unit.serving.image_server.running import (
    BANDS,
    PUPPET,
    Running,
    as_text,
    from_text,
    plain,
    png,
    running,
    wait_for,
)

LIMITS = UploadLimits(body_bytes=200_000, pixels=10_000, total_pixels=12_000, images=2, prompt_characters=100)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(**PUPPET, limits=LIMITS) as server:
        yield server


def bomb() -> bytes:
    """A PNG whose header promises 400 million pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def upload(server: Running, *images: bytes, **fields: str) -> httpx.Response:
    files = [("image[]", ("p.png", image)) for image in images]
    return httpx.post(f"{server.url}/v1/images/edits", files=files, data={"prompt": "invert", **fields}, timeout=20)


def message(reply: httpx.Response) -> str:
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    return str(error["message"])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (bomb(), "pixels"),
        (png(plain((120, 100))), "10000 are allowed"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "broken"),
        (b"", "empty"),
    ],
)
def test_only_images_of_bounded_size_are_decoded(server: Running, image: bytes, expected: str) -> None:
    reply = upload(server, image)
    assert reply.status_code == 400
    assert expected in message(reply)


def test_pixels_and_images_are_counted_over_the_request(server: Running) -> None:
    assert "allowed" in message(upload(server, png(plain((90, 90))), png(plain((90, 90)))))
    assert "2 images" in message(upload(server, *[png(plain())] * 3))


def test_too_many_parts_are_refused(server: Running) -> None:
    reply = upload(server, *[png(plain())] * 40)
    assert (reply.status_code, "Too many files" in message(reply)) == (400, True)


@pytest.mark.parametrize("source", ["/etc/passwd", "file:///etc/passwd", "../../etc/passwd", "data:text/plain,hi"])
def test_no_path_is_ever_opened(server: Running, source: str, tmp_path: Path) -> None:
    for body in ({"prompt": "invert", "image": source}, {"prompt": "invert", "image": str(_file(tmp_path))}):
        reply = httpx.post(f"{server.url}/v1/images/edits", json=body)
        assert reply.status_code == 400
        assert "root:" not in reply.text


def _file(folder: Path) -> Path:
    (folder / "p.png").write_bytes(png(plain()))
    return folder / "p.png"


def test_addresses_are_off_by_default(server: Running) -> None:
    reply = httpx.post(f"{server.url}/v1/images/edits", json={"prompt": "x", "image": f"{server.url}/health"})
    assert reply.json()["error"]["code"] == "urls_off"


@pytest.mark.slow
def test_addresses_that_are_not_public_are_refused_even_when_on() -> None:
    with running(**PUPPET, limits=UploadLimits(allow_urls=True)) as server:
        for address in (
            f"{server.url}/health",
            "http://169.254.169.254/latest",
            "HTTP://localhost:1/",
            "http://[::1]/",
        ):
            reply = httpx.post(f"{server.url}/v1/images/edits", json={"prompt": "x", "image": address})
            assert (reply.status_code, "not a public address" in message(reply)) == (400, True)


def test_body_is_bounded_by_its_length_and_by_what_comes(server: Running) -> None:
    assert server.edit("x" * 300_000).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * 10_000

    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{server.url}/v1/images/edits", content=endless(), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (json.dumps({"prompt": "x", "image": {"path": "/etc/passwd"}}).encode(), "application/json", 400),
        (b"x=1", "text/plain", 415),
        (b"--a\r\nnonsense", "multipart/form-data; boundary=a", 400),
        (b"nonsense", "multipart/form-data", 400),
    ],
)
def test_broken_bodies(server: Running, content: bytes, kind: str, status: int) -> None:
    for path in ("/v1/images/edits", "/v1/images/generations", "/v1/images/edits/upload"):
        reply = httpx.post(f"{server.url}{path}", content=content, headers={"content-type": kind})
        assert reply.status_code == status
        assert "Traceback" not in reply.text


def test_missing_parts_are_named(server: Running) -> None:
    assert httpx.post(f"{server.url}/v1/images/edits", json={"prompt": "x"}).json()["error"]["param"] == "image"
    assert server.edit("").json()["error"]["param"] == "prompt"
    assert (
        "generations take no images"
        in httpx.post(f"{server.url}/v1/images/generations", json={"prompt": "x", "image": as_text(plain())}).text
    )


def test_mask_of_another_size(server: Running) -> None:
    reply = server.edit("x", mask=as_text(plain((3, 3))))
    assert reply.json()["error"]["param"] == "mask"


def test_unknown_places_answer_in_the_same_form(server: Running) -> None:
    assert httpx.get(f"{server.url}/nowhere").json()["error"]["message"] == "Not Found"
    assert httpx.get(f"{server.url}/v1/images/edits").status_code == 405


def test_browsers_of_other_sites_get_no_leave(server: Running) -> None:
    reply = httpx.options(
        f"{server.url}/v1/images/edits",
        headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
    )
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.slow
def test_key() -> None:
    with running(**PUPPET, api_key="sésame") as server:
        for path in ("/v1/models", "/gpu/status", "/metrics"):
            assert httpx.get(server.url + path).status_code == 401
            assert httpx.get(server.url + path, headers={"authorization": "Bearer wrong"}).status_code == 401
            key = {b"authorization": "Bearer sésame".encode()}
            assert httpx.get(server.url + path, headers=key).status_code == 200
        assert server.edit("invert").status_code == 401
        for path in ("/", "/health", "/docs"):
            assert httpx.get(server.url + path).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 99),
        ("seed", -1),
        ("seed", 2**40),
        ("num_inference_steps", 10_000),
        ("true_cfg_scale", "nan"),
        ("strength", 0),
        ("size", "1x99999"),
        ("size", "large"),
        ("response_format", "url"),
        ("output_format", "exe"),
        ("stream", True),
        ("timeout", -1),
        ("prompt", "x" * 101),
    ],
)
def test_fields_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_fields(EditFields, {"prompt": "x", field: value}, LIMITS)
    assert caught.value.param == field
    assert "xxxx" not in str(caught.value)


@given(
    st.dictionaries(
        st.text(max_size=12), st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.lists(st.text()))
    )
)
def test_any_fields_are_accepted_or_refused(sent: dict[str, Any]) -> None:
    with contextlib.suppress(RequestRefused):
        assert isinstance(read_fields(DetectionFields, sent, LIMITS), DetectionFields)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
_NAMES = (
    st.sampled_from(
        ["prompt", "image", "image[]", "images", "images[]", "image[0]", "mask", "mask[]", "seed", "\ud800"]
    )
    | st.text()
)


async def read(content: bytes, kind: bytes, held: HeldMemory | None = None) -> None:
    """Read a body as the server does, and encode the answer if it is refused."""
    parts = [content[:7], content[7:]]

    async def receive() -> dict[str, object]:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    scope = {"type": "http", "app": None, "method": "POST", "headers": [(b"content-type", kind)]}
    request = Request(scope, receive)
    try:
        body = await read_body(request, LIMITS, asyncio.to_thread, held or HeldMemory(RequestMemory(1)))
        read_fields(EditFields, body.fields, LIMITS)
    except RequestRefused as fault:
        assert error_response(fault).body  # noqa: PT017


@pytest.mark.slow
@given(st.dictionaries(_NAMES, _JSON, max_size=6))
async def test_any_json_is_accepted_or_refused(sent: dict[str, Any]) -> None:
    await read(json.dumps(sent).encode(), b"application/json")


@given(
    st.binary(max_size=200) | st.text(alphabet="image=[]&%0fprompt+;", max_size=80).map(str.encode),
    st.sampled_from(
        [b"application/json", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=a", b"\xff"]
    ),
)
async def test_any_bytes_are_accepted_or_refused(sent: bytes, kind: bytes) -> None:
    await read(sent, kind)


def test_a_broken_form_leaves_no_line_in_the_log(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"content-type": "multipart/form-data; boundary=a"}
    assert httpx.post(f"{server.url}/v1/images/edits", content=b"\0", headers=headers).status_code == 400
    assert not [record for record in caplog.records if "multipart" in record.name]


def test_sizes() -> None:
    assert read_size("64x32", LIMITS) == (64, 32)
    assert read_size("auto", LIMITS) is read_size(None, LIMITS) is None


async def test_mask_conventions() -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    clear.putpixel((0, 0), (0, 0, 0, 0))
    opaque = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    opaque.putpixel((0, 0), (255, 255, 255, 255))
    labels = Image.fromarray(np.array([[1, 0]], np.uint16))
    grey = Image.new("L", (2, 1), 200)
    coder = Coder(LIMITS)
    for mask, wanted in ((clear, b"\xff\x00"), (opaque, b"\xff\x00"), (labels, b"\xff\x00"), (grey, b"\xc8\xc8")):
        assert (await coder.decode_mask(as_text(mask), HeldMemory(RequestMemory(1)), (2, 1))).tobytes() == wanted
    coder.close()


async def test_a_mask_that_is_a_photograph_is_refused_before_it_costs_an_edit() -> None:
    coder = Coder(LIMITS)
    noise = np.random.default_rng(0).integers(1, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(RequestRefused, match="colour image, not a mask: give a PNG") as refused:
        await coder.decode_mask(as_text(Image.fromarray(noise)), HeldMemory(RequestMemory(1)), (64, 64))
    assert (refused.value.code, refused.value.param) == ("invalid_image", "mask")
    coder.close()


@pytest.mark.parametrize("field", ["\\ud800", "x\\udfff"])
def test_half_a_surrogate_pair_is_refused_and_its_reply_can_be_encoded(server: Running, field: str) -> None:
    image = as_text(plain())
    for body in (
        f'{{"prompt": "x", "image": "{image}", "{field}": 1}}',
        f'{{"prompt": "{field}", "image": "{image}"}}',
        f'{{"prompt": "x", "image": "{field}"}}',
        f'{{"prompt": "x", "image": "{image}", "negative_prompt": "{field}"}}',
    ):
        for path in ("/v1/images/edits", "/v1/detections", "/v1/images/generations"):
            reply = httpx.post(f"{server.url}{path}", content=body, headers={"content-type": "application/json"})
            assert reply.status_code == 400
            assert message(reply)


@pytest.mark.slow
def test_bodies_of_many_values_are_refused_before_they_are_parsed(server: Running) -> None:
    with running(**PUPPET) as roomy:
        for piece in (b"[],", b"{},", b'"",', b"0,"):
            body = b'{"prompt": [' + piece * 2_000_000 + b"0]}"
            headers = {"content-type": "application/json"}
            reply = httpx.post(f"{roomy.url}/v1/images/edits", content=body, headers=headers, timeout=60)
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "too_many_values")
        headers = {"content-type": "application/x-www-form-urlencoded"}
        reply = httpx.post(f"{roomy.url}/v1/images/edits", content=b"prompt=" + b"%41" * 2_000_000, headers=headers)
        assert (reply.status_code, "multipart/form-data" in message(reply)) == (400, True)
        prompt = "\u7ea2" * 1500
        reply = httpx.post(f"{roomy.url}/v1/images/edits", data={"prompt": prompt}, timeout=60)
        assert message(reply) == "image is needed"


def test_bodies_are_parsed_off_the_event_loop(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    parsing, go_on = threading.Event(), threading.Event()

    def parse(data: bytes) -> object:
        parsing.set()
        assert go_on.wait(20)
        return json.loads(data)

    monkeypatch.setattr("agentfly.serving.image_server.http.body.parse_json", parse)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(server.edit, "invert")
        assert parsing.wait(20)
        assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200
        go_on.set()
        assert slow.result().status_code == 200


@pytest.mark.parametrize("names", [("image[0]", "mask[]"), ("image[]", "mask[0]"), ("image", "mask")])
def test_numbered_fields_are_images(server: Running, names: tuple[str, str]) -> None:
    image, mask = names
    form = {image: ("p.png", png(plain())), mask: ("m.png", png(Image.new("L", (16, 12), 255)))}
    reply = httpx.post(f"{server.url}/v1/images/edits", files=form, data={"prompt": "invert"})
    assert reply.status_code == 200
    texts = {"prompt": "invert", image: as_text(plain()), mask: as_text(Image.new("L", (16, 12), 255))}
    assert httpx.post(f"{server.url}/v1/images/edits", json=texts).status_code == 200
    assert httpx.post(f"{server.url}/v1/images/edits", data=texts).status_code == 200
    assert server.metric("requests_total", operation="inpaint", status=200) >= 3


@pytest.fixture(scope="module")
def bands() -> Iterator[Running]:
    with running(**BANDS, limits=LIMITS.model_copy(update={"images": 3})) as server:
        yield server


COLOURS = [(250, 0, 0), (0, 240, 0), (0, 0, 230)]


def test_further_images_come_after_the_one_to_edit_wherever_they_stand_in_the_body(bands: Running) -> None:
    first, *others = [plain((12, 8), colour) for colour in COLOURS]
    texts = [as_text(image) for image in others]
    further = [("images", ("p.png", png(image))) for image in others]
    image = [("image", ("p.png", png(first)))]
    bodies: list[dict[str, Any]] = [
        {"json": {"prompt": "x", "images": texts, "image": as_text(first)}},
        {"json": {"prompt": "x", "image": [as_text(first), *texts]}},
        {"json": {"prompt": "x", "images": [as_text(first), *texts]}},
        {"files": [*further, *image], "data": {"prompt": "x"}},
        {"files": [("image[]", part[1]) for part in (*image, *further)], "data": {"prompt": "x"}},
    ]
    for path in ("", "/upload"):
        for body in bodies:
            reply = httpx.post(f"{bands.url}/v1/images/edits{path}", **body, timeout=20).json()
            made = from_text(reply.get("image") or reply["data"][0]["b64_json"])
            assert [made.getpixel((x, 3)) for x in (1, 5, 9)] == COLOURS


def test_further_images_count_for_every_limit_of_a_request(bands: Running) -> None:
    """Images that the limits did not count would be decoded without bound."""

    def ask(*images: Image.Image) -> httpx.Response:
        body = {"prompt": "x", "image": as_text(plain()), "images": [as_text(image) for image in images]}
        return httpx.post(f"{bands.url}/v1/images/edits", json=body, timeout=20)

    assert ask(*[plain()] * 2).status_code == 200
    assert "3 images a request at most" in message(ask(*[plain()] * 3))
    # The model takes 4.
    (model,) = httpx.get(f"{bands.url}/v1/models").json()["data"]
    assert model["max_images"] == 3
    assert "allowed" in message(ask(plain((90, 90)), plain((90, 90))))
    for wrong in ({"images": 5}, {"images": [5]}, {"images": {"a": 1}}, {"images": "/etc/passwd"}):
        reply = httpx.post(f"{bands.url}/v1/images/edits", json={"prompt": "x", "image": as_text(plain()), **wrong})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "image")


async def test_every_image_of_a_request_waits_for_its_memory() -> None:
    coder, memory = Coder(LIMITS), RequestMemory(100_000)
    decoding = 90 * 60 * 8
    with HeldMemory(memory) as other, HeldMemory(memory) as held:
        other.take(100_000 - 2 * decoding)
        sources = [as_text(plain((90, 60)))] * 2
        await coder.decode(sources[:1], held)
        with pytest.raises(ServerFault, match="images of other requests"):
            await coder.decode(sources, held)
    assert memory.used == 0
    coder.close()


def test_a_second_mask_is_refused(server: Running) -> None:
    form = [(name, ("p.png", png(plain()))) for name in ("image[0]", "mask[0]", "mask[1]")]
    reply = httpx.post(f"{server.url}/v1/images/edits", files=form, data={"prompt": "invert"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "mask")


@pytest.mark.slow
def test_requests_hold_bounded_memory_together() -> None:
    large = plain((200, 200))
    with running(**PUPPET, worker_slots=4, limits=UploadLimits(memory_bytes=340_000)) as server:
        # One request alone may take more than there is.
        assert server.edit("invert", plain((400, 400))).status_code == 200
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(server.edit, "sleep 1", large)
            wait_for(lambda: server.server.dispatcher.running == 1)
            second = server.edit("invert", large)
            assert (second.status_code, second.json()["error"]["code"]) == (503, "memory_full")
            assert second.headers["retry-after"] == "1"
            assert server.edit("invert").status_code == 200
            assert first.result().status_code == 200
        # Refused and broken requests give back what they held.
        assert server.edit("refuse", large).status_code == 422
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(server.edit, "sleep 0.5", plain((20, 20)))
            wait_for(lambda: server.server.dispatcher.running == 1)
            assert server.edit("invert", large).status_code == 200
            assert first.result().status_code == 200


async def test_an_image_is_decoded_only_when_there_is_memory_for_its_decoding() -> None:
    coder, memory = Coder(LIMITS), RequestMemory(100_000)
    # Decoded, it would fit. Its pixels are broken, which only decoding them would tell.
    broken = png(Image.effect_noise((90, 90), 80).convert("RGB"))[:-3000]
    with HeldMemory(memory) as other, HeldMemory(memory) as held:
        other.take(50_000)
        with pytest.raises(ServerFault, match="try again") as refused:
            await coder.decode([broken], held)
        assert refused.value.code == "memory_full"
        other.take(-50_000)
        with pytest.raises(RequestRefused, match="broken"):
            await coder.decode([broken], held)
        assert (memory.used, held.size) == (0, 0)
        # A request that is alone fits, however much it needs.
        memory.most = 10
        await coder.decode([png(plain((90, 90))), as_text(plain((10, 10)))], held)
        assert held.size == (90 * 90 + 10 * 10) * 4
    assert memory.used == 0
    coder.close()


async def test_what_is_fetched_counts_until_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data, most = png(plain((90, 90))), 0

    def fetch(url: str, *, hold: Callable[[int], None], **_: object) -> bytes:
        nonlocal most
        hold(70_000)
        most = memory.used
        return data

    monkeypatch.setattr("agentfly.serving.image_server.http.images.fetch", fetch)
    coder, memory = Coder(UploadLimits(allow_urls=True)), RequestMemory(100_000)
    with HeldMemory(memory) as other, HeldMemory(memory) as held:
        await coder.decode(["https://example.com/a.png"], held)
        assert (most, held.size) == (70_000, 90 * 90 * 4)
        other.take(1_000)
        with pytest.raises(ServerFault, match="try again"):
            await coder.decode(["https://example.com/a.png"], held)
    coder.close()


async def test_a_thread_of_a_request_that_is_over_takes_no_memory() -> None:
    memory = RequestMemory(1000)
    with HeldMemory(memory) as held, contextlib.suppress(RuntimeError):
        with held.during(10):
            held.take(5)
        assert memory.used == 5
        raise RuntimeError
    with pytest.raises(ServerFault, match="over"):
        held.take(5)
    held.take(-5)
    assert memory.used == 0


def test_parsing_a_body_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, seen = RequestMemory(10**9), 0

    def parse(data: bytes) -> object:
        nonlocal seen
        seen = memory.used
        return json.loads(data)

    monkeypatch.setattr("agentfly.serving.image_server.http.body.parse_json", parse)
    with HeldMemory(memory) as held:
        asyncio.run(read(b'{"prompt": "x"}', b"application/json", held))
        assert (seen >= 2 * len(b'{"prompt": "x"}'), memory.used) == (True, 0)


@pytest.mark.slow
def test_names_and_pages_of_others_are_refused(server: Running) -> None:
    body = {"prompt": "invert", "image": as_text(plain())}
    port = server.url.rpartition(":")[2]
    for headers, status, code in (
        ({"host": f"evil.example:{port}"}, 421, "host_not_allowed"),
        ({"origin": "https://evil.example"}, 403, "origin_not_allowed"),
        ({"host": f"localhost:{port}", "origin": f"http://localhost:{port}"}, 200, None),
    ):
        reply = httpx.post(f"{server.url}/v1/images/edits", json=body, headers=headers)
        assert reply.status_code == status
        assert reply.json().get("error", {}).get("code") == code
    with running(**PUPPET, host="0.0.0.0") as reachable:
        reply = httpx.post(f"{reachable.url}/v1/images/edits", json=body, headers={"host": "node-7.cluster"})
        assert reply.status_code == 200


@pytest.mark.slow
def test_what_is_refused_before_it_is_read_is_in_the_metrics() -> None:
    with running(**PUPPET, api_key="k", limits=LIMITS) as server:
        assert server.edit("invert").status_code == 401
        assert server.metric("requests_total", operation="edit", status=401) == 1
        headers = {"authorization": "Bearer k"}
        reply = httpx.post(f"{server.url}/v1/detections", content=b"x" * 300_000, headers=headers)
        assert reply.status_code == 413
        assert server.metric("requests_total", operation="detect", status=413) == 1
        assert httpx.post(f"{server.url}/nowhere", json={}).status_code == 401
        assert server.metric("requests_total", operation="edit", status=401) == 1
        for name, value, status in (("host", "evil.example", 421), ("origin", "https://evil.example", 403)):
            for path in ("edits", "generations", "nowhere"):
                reply = httpx.post(f"{server.url}/v1/images/{path}", json={}, headers={**headers, name: value})
                assert reply.status_code == status
            assert httpx.get(f"{server.url}/v1/images/edits", headers={name: value}).status_code == status
            for operation in ("edit", "generate"):
                assert server.metric("requests_total", operation=operation, status=status) == 1
