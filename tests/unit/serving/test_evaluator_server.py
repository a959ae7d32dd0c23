"""An evaluator over HTTP: the same score on both sides, and every refusal with its reason."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import uvicorn
from PIL import Image
from typer.testing import CliRunner

from agentfly.cli import app as agentfly
from agentfly.datasets import StickerWorld
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import (
    CompositeEvaluator,
    EditSample,
    Evaluator,
    GuardedEvaluator,
    GuardSettings,
    PassingFault,
    ReferenceEvaluator,
    Score,
    evaluate_many,
    sleep_evaluator,
    wake_evaluator,
)
from agentfly.evaluators.http import HttpEvaluator, HttpEvaluatorSettings
from agentfly.evaluators.http_schema import FORMAT, PATH, json_schema, to_body
from agentfly.images import to_base64
from agentfly.serving.errors import RequestRefused, error_response
from agentfly.serving.evaluator_server import EvaluatorServerSettings, app, create_app
from agentfly.serving.http_server import make_server
from agentfly.serving.settings import ConnectionLimits
from tests.unit.serving.image_server.running import wait_for
from tests.values import as_image

ROOT = Path(__file__).resolve().parents[3]
TASK = StickerWorld().task(3, "heldout", "named")
SOURCE, TARGET, MASK = (as_image(image) for image in (TASK.images[0], TASK.target, TASK.mask))
HALF = Image.blend(SOURCE, TARGET, 0.5)
SAMPLE = EditSample(TASK.instruction, SOURCE, HALF, TARGET, MASK, {"key": [1, "é"], "bad": object()})


class Slow:
    """Scores a sample once it is set free."""

    def __init__(self) -> None:
        self.free, self.started = asyncio.Event(), asyncio.Event()

    async def evaluate(self, sample: EditSample) -> Score:
        self.started.set()
        await self.free.wait()
        return Score(3)


class Doing:
    """Does what a function says."""

    def __init__(self, work: Callable[[EditSample], Score]) -> None:
        self.work = work

    async def evaluate(self, sample: EditSample) -> Score:
        await asyncio.sleep(0)
        return self.work(sample)


class Holding(ReferenceEvaluator):
    """Counts how often it is told to let go."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1


def raising(fault: Exception) -> Doing:
    def work(sample: EditSample) -> Score:
        raise fault

    return Doing(work)


def client(evaluator: Evaluator, **settings: Any) -> HttpEvaluator:
    server = create_app(evaluator, EvaluatorServerSettings(**settings))
    return HttpEvaluator(HttpEvaluatorSettings(base_url="http://scorer.test"), httpx.ASGITransport(app=server))


async def test_the_server_sees_the_sample_and_the_client_its_score() -> None:
    seen: list[EditSample] = []

    def work(sample: EditSample) -> Score:
        seen.append(sample)
        return Score(12.5, "so so", {"a": 0.25})

    assert await client(Doing(work)).evaluate(SAMPLE) == Score(12.5, "so so", {"a": 0.25})
    assert seen[0].instruction == SAMPLE.instruction
    assert seen[0].metadata == {"key": [1, "é"]}
    for name in ("source", "result", "target", "mask"):
        sent, got = getattr(SAMPLE, name), getattr(seen[0], name)
        assert (got.mode, got.tobytes()) == (sent.mode, sent.tobytes())


async def test_a_missing_result_stays_missing() -> None:
    score = await client(ReferenceEvaluator()).evaluate(
        EditSample("x", SAMPLE.source, None, SAMPLE.target, SAMPLE.mask)
    )
    assert score.feedback == "There is no result."


def test_over_a_real_socket_scores_are_those_of_the_evaluator_itself() -> None:
    hosted = Holding()
    server = uvicorn.Server(uvicorn.Config(create_app(hosted), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    remote = HttpEvaluator(
        HttpEvaluatorSettings(base_url=f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    )
    try:
        there = asyncio.run(evaluate_many(remote, [SAMPLE] * 8))
    finally:
        server.should_exit = True
        thread.join(30)
    assert hosted.closed == 1
    assert there == [asyncio.run(ReferenceEvaluator().evaluate(SAMPLE))] * 8
    with pytest.raises(PassingFault, match="does not answer"):
        asyncio.run(remote.evaluate(SAMPLE))


async def test_not_scored_comes_with_the_reason_of_the_evaluator() -> None:
    with pytest.raises(EvaluatorError, match="HTTP 422: needs a mask") as caught:
        await client(raising(EvaluatorError("needs a mask"))).evaluate(SAMPLE)
    assert not isinstance(caught.value, PassingFault)


@pytest.mark.parametrize("fault", [PassingFault("busy"), RuntimeError("a bug at /secret/path")])
async def test_faults_that_may_pass_are_told_as_such(fault: Exception) -> None:
    with pytest.raises(PassingFault) as caught:
        await client(raising(fault)).evaluate(SAMPLE)
    assert "/secret/path" not in str(caught.value)


async def test_a_guard_around_the_client_tries_again() -> None:
    attempts: Iterator[Exception | Score] = iter([PassingFault("busy"), Score(60)])

    def work(sample: EditSample) -> Score:
        found = next(attempts)
        if isinstance(found, Exception):
            raise found
        return found

    guarded = GuardedEvaluator(client(Doing(work)), GuardSettings(first_wait=0))
    assert (await guarded.evaluate(SAMPLE)).value == 60


@pytest.mark.parametrize("value", [float("nan"), 101.0, -1.0])
async def test_a_score_that_is_none_is_not_passed_on(value: float) -> None:
    with pytest.raises(EvaluatorError, match="no score from 0 to 100"):
        await client(Doing(lambda sample: Score(value))).evaluate(SAMPLE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"value": 500}',
        b'{"value": "NaN"}',
        b'{"value": true}',
        b'{"value": %s}' % (b"9" * 400),
        b'{"value": 5, "aspects": {"a": NaN}}',
        b'{"value": 5, "aspects": {"a": 1e999}}',
        b'{"value": 5, "aspects": {"a": false}}',
        b'{"score": 5}',
        b'{"value": 5, "more": 1}',
    ],
    ids=lambda body: body[:30].decode(),
)
async def test_a_server_that_answers_nonsense_gives_no_score(body: bytes) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    with pytest.raises(EvaluatorError, match="gave no score"):
        await HttpEvaluator(HttpEvaluatorSettings(base_url="http://scorer.test"), transport).evaluate(SAMPLE)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "out of memory"}}',
        b'{"error": "out of memory"}',
        b'{"detail": "out of memory"}',
        b'{"message": "out of memory"}',
    ],
)
async def test_the_reason_of_a_server_is_told_whatever_its_form_and_status(body: bytes) -> None:
    for status in (200, 400):
        transport = httpx.MockTransport(lambda _, status=status: httpx.Response(status, content=body))
        with pytest.raises(EvaluatorError, match="out of memory"):
            await HttpEvaluator(HttpEvaluatorSettings(base_url="http://scorer.test"), transport).evaluate(SAMPLE)


async def test_an_error_that_cannot_be_read_is_one_all_the_same() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(400, content=b"[" * 100_000))
    with pytest.raises(EvaluatorError, match="no reason given"):
        await HttpEvaluator(HttpEvaluatorSettings(base_url="http://scorer.test"), transport).evaluate(SAMPLE)


async def test_a_wrong_address_is_a_fault_of_the_configuration() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(404, content=b"<html>"))
    with pytest.raises(ConfigError, match="base_url"):
        await HttpEvaluator(HttpEvaluatorSettings(base_url="http://scorer.test"), transport).evaluate(SAMPLE)


async def test_a_server_with_a_key_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFLY_EVALUATOR_KEY", "k-123")
    locked = client(Doing(lambda sample: Score(1)))
    assert (await locked.evaluate(SAMPLE)).value == 1
    monkeypatch.setenv("AGENTFLY_EVALUATOR_KEY", "wrong")
    other = HttpEvaluator(locked.settings, locked._transport)
    with pytest.raises(ConfigError, match="AGENTFLY_EVALUATOR_KEY"):
        await other.evaluate(SAMPLE)


async def test_the_queue_is_bounded() -> None:
    slow = Slow()
    one = client(slow, in_flight=1, max_queue=0)
    first = asyncio.ensure_future(one.evaluate(SAMPLE))
    await slow.started.wait()
    with pytest.raises(PassingFault, match="too many requests"):
        await one.evaluate(SAMPLE)
    slow.free.set()
    assert (await first).value == 3


BODY = to_body(SAMPLE)


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ({**BODY, "source": "/etc/passwd"}, 400, "source"),
        ({**BODY, "result": "file:///etc/passwd"}, 400, "result"),
        ({**BODY, "result": "http://169.254.169.254/"}, 400, "result"),
        ({**BODY, "mask": "aGVsbG8="}, 400, "mask"),
        ({"instruction": "x"}, 400, "source"),
        ({**BODY, "more": 1}, 400, "more"),
        ("[" * 100_000, 400, "no JSON"),
        ("{", 400, "no JSON"),
        ("x" * 300_000, 413, "bytes"),
    ],
)
async def test_what_is_no_sample_is_refused(content: Any, status: int, words: str) -> None:
    server = create_app(ReferenceEvaluator(), EvaluatorServerSettings(max_bytes=200_000))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server), base_url="http://scorer.test") as http:
        sent = {"content": content} if isinstance(content, str) else {"json": content}
        reply = await http.post(PATH, **sent)
    assert reply.status_code == status, reply.text
    assert words in reply.json()["error"]["message"]
    assert "root:" not in reply.text


async def test_health_names_the_evaluator() -> None:
    server = create_app(ReferenceEvaluator())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server), base_url="http://scorer.test") as http:
        known = {"status": "ok", "format": FORMAT, "evaluator": "ReferenceEvaluator", "waiting": 0, "asleep": False}
        assert (await http.get("/health")).json() == {**known, "can_sleep": False}


async def test_a_server_says_if_it_has_a_model_that_could_sleep() -> None:
    guarded = GuardedEvaluator(CompositeEvaluator({"a": ReferenceEvaluator(), "b": GuardedEvaluator(Napping())}))
    hosts: dict[Any, bool] = {guarded: True, ReferenceEvaluator(): False}
    hosts[CompositeEvaluator({"a": ReferenceEvaluator()})] = False
    for hosted, expected in hosts.items():
        assert await client(hosted).server_can_sleep() is expected


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"can_sleep": "yes"}', b"[" * 100_000])
async def test_a_server_of_others_may_say_nothing_about_sleep(body: bytes) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    assert await HttpEvaluator(HttpEvaluatorSettings(base_url="http://x"), transport).server_can_sleep() is None
    assert await HttpEvaluator(HttpEvaluatorSettings(base_url="http://127.0.0.1:9")).server_can_sleep() is None


@pytest.mark.parametrize("spec", ["referense", '{"evaluator": "judge"}', "{"])
def test_the_command_refuses_what_it_cannot_host(spec: str, caplog: pytest.LogCaptureFixture) -> None:
    assert CliRunner().invoke(app, ["--evaluator", spec]).exit_code == 2
    assert caplog.text


def test_the_command_hosts_what_its_options_name(monkeypatch: pytest.MonkeyPatch) -> None:
    hosted: list[uvicorn.Server] = []

    def run(server: uvicorn.Server) -> None:
        hosted.append(server)
        server.started = True

    monkeypatch.setattr(uvicorn.Server, "run", run)
    done = CliRunner().invoke(app, ["--evaluator", "reference", "--port", "8101", "--in-flight", "2"])
    assert done.exit_code == 0, done.output
    (server,) = hosted
    assert (server.config.host, server.config.port) == ("127.0.0.1", 8101)


def test_a_port_that_is_taken_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert CliRunner().invoke(app, ["--evaluator", "reference", "--port", port]).exit_code == 2
        done = CliRunner().invoke(agentfly, ["serve-evaluator", "reference", "--port", port])
    assert done.exit_code == 1
    assert str(done.exception).startswith(f"the server could not listen on 127.0.0.1:{port} (the line above says why)")


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", None, True), ("::", None, True), ("127.0.0.1", None, False), ("0.0.0.0", "k", False)],
)
def test_an_open_server_on_the_network_is_warned_about(
    host: str, key: str | None, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AGENTFLY_EVALUATOR_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("AGENTFLY_EVALUATOR_KEY", key)
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: setattr(server, "started", True))
    assert CliRunner().invoke(app, ["--evaluator", "reference", "--host", host]).exit_code == 0
    warning = f"anybody who reaches {host} may use this server: export AGENTFLY_EVALUATOR_KEY with a key"
    assert (warning in caplog.text) is warned


@contextmanager
def hosting(evaluator: Evaluator, settings: EvaluatorServerSettings, **limits: Any) -> Iterator[str]:
    made = create_app(evaluator, settings)
    server = make_server(made, "127.0.0.1", 0, ConnectionLimits(**limits), log_level="error")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def send_half(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    half = socket.create_connection((host, int(port)), timeout=20)
    half.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{".encode())
    return half


def test_bodies_that_come_slowly_do_not_keep_the_queue_full() -> None:
    settings = EvaluatorServerSettings(in_flight=1, max_queue=1)
    with hosting(ReferenceEvaluator(), settings, body_seconds=0.3) as url:
        with send_half(url) as one, send_half(url) as other:
            for slow in (one, other):
                assert b" 408 " in slow.recv(4096).splitlines()[0]
        assert httpx.post(url + PATH, json=BODY).status_code == 200


def test_a_body_has_no_more_time_than_an_evaluation() -> None:
    with hosting(ReferenceEvaluator(), EvaluatorServerSettings(timeout=0.2)) as url, send_half(url) as slow:
        assert b" 408 " in slow.recv(4096).splitlines()[0]


def test_a_client_that_hangs_up_while_it_sends_is_no_fault_of_the_evaluator(caplog: pytest.LogCaptureFixture) -> None:
    with hosting(ReferenceEvaluator(), EvaluatorServerSettings()) as url:
        half = send_half(url)
        wait_for(lambda: httpx.get(f"{url}/health").json()["waiting"] == 1)
        half.close()
        wait_for(lambda: httpx.get(f"{url}/health").json()["waiting"] == 0)
    assert "the evaluator failed" not in caplog.text


def test_other_names_and_pages_are_refused() -> None:
    with hosting(ReferenceEvaluator(), EvaluatorServerSettings(), allowed_hosts=("scorer.test",)) as url:
        for headers, status in (({"host": "evil.example"}, 421), ({"origin": "http://evil.example"}, 403)):
            reply = httpx.post(url + PATH, json=BODY, headers=headers)
            assert (reply.status_code, "--allowed-hosts" in reply.json()["error"]["message"]) == (status, True)
        assert httpx.post(url + PATH, json=BODY, headers={"host": "scorer.test"}).status_code == 200


async def test_the_client_names_the_option_for_a_server_that_does_not_know_its_name() -> None:
    reply = error_response(RequestRefused("start it with --allowed-hosts scorer.test", status=421))
    transport = httpx.MockTransport(lambda request: httpx.Response(421, content=bytes(reply.body)))
    remote = HttpEvaluator(HttpEvaluatorSettings(base_url="http://scorer.test"), transport)
    for ask in (remote.evaluate(SAMPLE), remote.check_ready()):
        with pytest.raises(ConfigError, match="--allowed-hosts"):
            await ask


async def test_samples_hold_bounded_memory_together() -> None:
    slow = Slow()
    one = client(slow, memory_bytes=1000)
    first = asyncio.ensure_future(one.evaluate(SAMPLE))
    await slow.started.wait()
    with pytest.raises(PassingFault, match="memory"):
        await one.evaluate(SAMPLE)
    slow.free.set()
    assert (await first).value == 3
    assert (await one.evaluate(SAMPLE)).value == 3


async def test_the_images_of_a_sample_are_decoded_only_when_there_is_memory_for_it() -> None:
    slow = Slow()
    # The pixels of the second one are broken, which only decoding them would tell.
    broken = {**BODY, "source": to_base64(Image.linear_gradient("L").convert("RGB"))[:-100]}
    server = create_app(slow, EvaluatorServerSettings(memory_bytes=500_000))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server), base_url="http://scorer.test") as http:
        first = asyncio.ensure_future(http.post(PATH, json=BODY))
        await slow.started.wait()
        refused = await http.post(PATH, json=broken)
        slow.free.set()
        assert (await first).status_code == 200
        alone = await http.post(PATH, json=broken)
    assert (refused.status_code, "memory" in refused.text) == (503, True)
    assert (alone.status_code, "broken" in alone.text) == (400, True)


async def test_text_that_has_no_encoding_is_no_fault_of_the_server() -> None:
    server = create_app(Doing(lambda sample: Score(1, "\ud800", {"\udfff": 1.0})))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server), base_url="http://scorer.test") as http:
        refused = await http.post(PATH, content=json.dumps({**BODY, "more\ud800": 1}))
        scored = await http.post(PATH, json=BODY)
        many = await http.post(PATH, content=b"[" + b"[]," * 200_000 + b"0]")
    assert (refused.status_code, scored.status_code, many.status_code) == (400, 200, 400)
    assert scored.json()["feedback"] == "\ud800"
    assert "commas and brackets" in many.json()["error"]["message"]


class Napping(Holding):
    """An evaluator with a model that sleeps; where it is asleep, no sample is scored."""

    asleep = False

    async def evaluate(self, sample: EditSample) -> Score:
        if self.asleep:
            raise PassingFault("the reward model m sleeps: wake it first")
        return await super().evaluate(sample)

    async def sleep(self) -> bool:
        self.asleep = True
        return True

    async def wake(self) -> bool:
        self.asleep = False
        return True


async def test_the_model_sleeps_and_wakes_by_the_client_through_guards_and_composites() -> None:
    hosted = Napping()
    remote = client(CompositeEvaluator({"kept": ReferenceEvaluator(), "learned": hosted}))
    before = await remote.evaluate(SAMPLE)
    assert await sleep_evaluator(GuardedEvaluator(remote))
    with pytest.raises(PassingFault, match=r"HTTP 503: .*sleeps: wake it first"):
        await remote.evaluate(SAMPLE)
    assert await wake_evaluator(remote)
    assert await remote.evaluate(SAMPLE) == before


async def test_only_a_model_sleeps_and_only_for_who_has_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for modelless in (ReferenceEvaluator(), CompositeEvaluator({"a": GuardedEvaluator(ReferenceEvaluator())})):
        assert not await sleep_evaluator(client(modelless))
    monkeypatch.setenv("AGENTFLY_EVALUATOR_KEY", "k-123456")
    server = create_app(Napping())
    monkeypatch.delenv("AGENTFLY_EVALUATOR_KEY")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server), base_url="http://scorer.test") as http:
        assert (await http.post("/v1/sleep")).status_code == 401
        reply = await http.post("/v1/sleep", headers={"authorization": "Bearer k-123456"})
        assert reply.json() == {"asleep": True}
        health = (await http.get("/health")).json()
        assert (health["format"], health["asleep"]) == (FORMAT, True)


def test_the_schema_on_the_page_is_that_of_the_bodies() -> None:
    """After a change of the bodies: write json.dumps(json_schema(), indent=2) there again, if it is compatible."""
    page = json.loads((ROOT / "docs" / "evaluator.schema.json").read_text(encoding="utf-8"))
    assert page == json_schema()
    request = {"$ref": "#/$defs/request", **page}
    jsonschema.validate(to_body(SAMPLE), request)
    for wrong in ({}, {"instruction": "x", "source": 1}, {**to_body(SAMPLE), "more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, request)
    jsonschema.validate({"value": 3, "aspects": {"a": 0.5}}, {"$ref": "#/$defs/response", **page})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"value": 101}, {"$ref": "#/$defs/response", **page})


def test_the_client_on_the_page_gets_a_score(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "evaluator_protocol.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(code[code.index("def score") :].strip().splitlines()) <= 10
    SOURCE.save(tmp_path / "a.png")
    HALF.save(tmp_path / "b.png")
    work = Doing(lambda sample: Score(float(sample.result is not None) * 42, sample.instruction))
    server = uvicorn.Server(uvicorn.Config(create_app(work), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        found = names["score"]("x", str(tmp_path / "a.png"), str(tmp_path / "b.png"), f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(30)
    assert found == 42
