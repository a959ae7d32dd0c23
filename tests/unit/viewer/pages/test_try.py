"""The page Try: an agent on a real loopback endpoint, behind the real server, with clients that stay or go."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from agentfly.agents import streaming
from agentfly.agents.edit import PolicyOptions
from agentfly.agents.run import RunLog
from agentfly.cli import app
from agentfly.errors import AgentFlyError, ConfigError
from agentfly.serving.http_server import make_server
from agentfly.serving.settings import ConnectionLimits
from agentfly.viewer.attempts import Session, described, open_session
from agentfly.viewer.opened import Viewer
from agentfly.viewer.server import create_app
from agentfly.viewer.settings import TrySettings
from tests.unit.agents.calls import call
from tests.unit.agents.conftest import ChatServer, Reply, delta, failure, running_server, server, stream
from tests.unit.serving.image_server.running import wait_for
from tests.unit.viewer.small_runs import view_of, write_run

__all__ = ["running_server", "server"]  # fixtures

OWN = {"X-Agentfly": "view"}
EDIT = call("qwen_edit_image", image_id="img_1", prompt="darken")
ANSWER = call("give_answer", final_image_id="img_2")
QUICK = TrySettings()


def say(text: str) -> Reply:
    return stream(delta(content=text[:9]), delta(content=text[9:]), delta("stop"))


def png(*, side: int = 32, colour: tuple[int, int, int] = (200, 180, 160)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


@dataclass
class Trying:
    """A viewer that answers at an address, and its attempts."""

    http: httpx.Client
    session: Session

    def upload(self, data: bytes | None = None) -> httpx.Response:
        return self.http.post("/try/images", content=data if data is not None else png(), headers=OWN)

    def start(self, instruction: str = "Make it darker", image: str | None = None) -> Any:
        """Return a context manager of the streamed answer."""
        body = {"image": image or self.upload().json()["image"], "instruction": instruction}
        return self.http.stream("POST", "/try/runs", json=body, headers=OWN)

    def run(self, instruction: str = "Make it darker") -> list[dict[str, Any]]:
        """Return all messages of an attempt."""
        with self.start(instruction) as answer:
            return [json.loads(line) for line in answer.iter_lines()]


@contextmanager
def trying(
    url: str, *, save: Path | None = None, limits: TrySettings = QUICK, runs: Viewer | None = None
) -> Iterator[Trying]:
    """Serve a viewer as the command does."""
    session = open_session(PolicyOptions(base_url=url, model="m"), limits, save, "try")
    others = [run.run for run in runs.runs.values()] if runs is not None else []
    application = create_app(Viewer([*others, session.run]), session=session)
    served = make_server(
        application, "127.0.0.1", 0, ConnectionLimits(), log_level="critical", timeout_graceful_shutdown=1
    )
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    wait_for(lambda: served.started)
    try:
        port = served.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            yield Trying(http, session)
    finally:
        served.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@dataclass
class Endless:
    """A backend's answer that goes on until its client leaves."""

    begun: int = 0
    left: int = 0

    def __call__(self, _: dict[str, Any]) -> Response:
        piece: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        piece["choices"] = [delta(content="and ")]

        async def words() -> Any:
            self.begun += 1
            try:
                while True:
                    yield f"data: {json.dumps(piece)}\n\n"
                    await asyncio.sleep(0.02)
            finally:
                self.left += 1

        return StreamingResponse(words(), media_type="text/event-stream")


def kinds(told: list[dict[str, Any]]) -> list[str]:
    """The kinds of messages, several pieces of text as one."""
    found = [entry["event"] for entry in told]
    return [kind for at, kind in enumerate(found) if kind != "delta" or found[at - 1] != "delta"]


@pytest.mark.slow
def test_steps_arrive_and_the_result_is_kept_as_a_run(server: ChatServer, tmp_path: Path) -> None:
    server.say(say(EDIT), say(ANSWER))
    with trying(server.url, save=tmp_path / "kept") as viewer:
        told = viewer.run()
        turn = ["turn", "delta", "said", "call", "called", "seen"]
        assert kinds(told) == ["accepted", "begin", *turn, *turn, "end"]
        end = told[-1]
        assert (end["stopped"], end["error"], end["kept"], end["turns"]) == ("answered", None, True, 2)
        before, after = (viewer.http.get(f"/try/images/{end[name]}.png") for name in ("before", "after"))
        shades = [Image.open(io.BytesIO(answer.content)).convert("L").getpixel((0, 0)) for answer in (before, after)]
        assert shades[1] < shades[0]  # type: ignore[operator]
        found = viewer.http.get(f"/try/chains/{end['chain']}").json()
        assert viewer.http.get(found["chain"]).status_code == 200
        rate = viewer.http.get(found["rate"])
        assert "0 of 1 results" in rate.text
        assert "Make it darker" in rate.text
        assert viewer.http.get("/", follow_redirects=True).url.path == "/try"
    log = RunLog(tmp_path / "kept")  # as agent.run(log_dir=…) resumes it
    (chain,) = log.finished.values()
    log.close()
    assert chain.id == end["chain"]
    assert (tmp_path / "kept" / "images" / f"{chain.final_image}.png").is_file()


def test_without_a_folder_nothing_stays(server: ChatServer) -> None:
    server.say(say(EDIT), say(ANSWER))
    with trying(server.url) as viewer:
        assert viewer.run()[-1]["kept"]
        folder = viewer.session.run.path
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize("way", ["button", "tab"])
def test_cancelling_and_leaving_end_the_request_of_the_backend(server: ChatServer, way: str) -> None:
    endless = Endless()
    server.say(endless)
    with trying(server.url) as viewer:
        with viewer.start() as answer:
            lines = (json.loads(line) for line in answer.iter_lines())
            accepted = next(lines)
            next(line for line in lines if line["event"] == "delta")
            if way == "button":
                path = f"/try/runs/{accepted['id']}/cancel"
                assert viewer.http.post(path, json={}, headers=OWN).status_code == 200
                assert list(lines)[-1] == {"event": "end", "stopped": "cancelled", "error": "Cancelled."}
        wait_for(lambda: endless.left == 1)
        wait_for(lambda: not viewer.session.attempts._line)
        assert viewer.http.post(f"/try/runs/{accepted['id']}/cancel", json={}, headers=OWN).status_code == 409
        assert (viewer.session.run.path / "trajectories.jsonl").read_bytes() == b""


def test_a_viewer_that_is_stopped_ends_what_runs(server: ChatServer) -> None:
    endless = Endless()
    server.say(endless)
    with httpx.Client(timeout=60) as stays, ExitStack() as stack:
        with trying(server.url) as viewer:
            body = {"image": viewer.upload().json()["image"], "instruction": "x"}
            address = str(viewer.http.base_url.join("/try/runs"))
            answer = stack.enter_context(stays.stream("POST", address, json=body, headers=OWN))
            next(line for line in answer.iter_lines() if "delta" in line)
        # The server has ended though its client still listens.
        wait_for(lambda: endless.left == 1)


def test_one_runs_one_waits_and_the_next_is_told_to_come_back(server: ChatServer) -> None:
    server.say(Endless(), say(EDIT), say(ANSWER))
    with trying(server.url, limits=TrySettings(at_once=1, waiting=1)) as viewer, viewer.start() as first:
        lines = (json.loads(line) for line in first.iter_lines())
        next(line for line in lines if line["event"] == "delta")
        with viewer.start() as second:
            waiting = (json.loads(line) for line in second.iter_lines())
            assert [next(waiting)["event"], next(waiting)] == ["accepted", {"event": "queued", "place": 1}]
            with viewer.start() as third:
                assert third.status_code == 503
                assert "the queue is full" in json.loads(third.read())["error"]
            first.close()
            assert list(waiting)[-1]["stopped"] == "answered"


def test_an_attempt_has_a_time_limit(server: ChatServer) -> None:
    server.say(Endless())
    with trying(server.url, limits=TrySettings(seconds=0.5)) as viewer:
        end = viewer.run()[-1]
    assert (end["event"], end["stopped"]) == ("end", "wall_clock")


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([failure(400, "bad key sk-secret123456789")], "answered 400"),
        ([say("I would rather not.")], "the agent made no image (no_tool_call): the agent called no tool"),
        (
            [say(EDIT.replace("darken", "make it grey")), say(ANSWER.replace("img_2", "img_1"))],
            "the image is unchanged",
        ),
    ],
)
def test_what_went_wrong_is_one_sentence(server: ChatServer, replies: list[Reply], words: str) -> None:
    server.say(*replies)
    with trying(server.url) as viewer:
        file = png(colour=(90, 90, 90))
        with viewer.start(image=viewer.upload(file).json()["image"]) as answer:
            end = [json.loads(line) for line in answer.iter_lines()][-1]
    assert end["event"] == "end"
    assert words in end["error"]


def test_a_key_is_in_no_message(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-geheim-geheim")
    server.say(failure(401, "wrong key sk-geheim-geheim"))
    with trying(server.url) as viewer:
        told = viewer.run()
    assert told[-1]["error"]
    assert "geheim" not in json.dumps(told)


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 400, "the file is empty"),
        (b"<svg onload=alert(1)>", 404, "SVG"),
        (b"GIF89a", 404, "broken or cut off"),
        (b"/etc/passwd", 404, "not an image"),
        (b"http://127.0.0.1/x.png", 404, "not an image"),
        (png(side=101), 404, "10000 are allowed"),
        (b"x" * 5001, 413, "5000 bytes"),
    ],
)
def test_uploads_are_checked(server: ChatServer, data: bytes, status: int, words: str) -> None:
    with trying(server.url, limits=TrySettings(max_pixels=10_000, upload_bytes=5000)) as viewer:
        answer = viewer.upload(data)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_old_uploads_make_room_and_requests_are_checked(server: ChatServer) -> None:
    with trying(server.url, limits=TrySettings(uploads=2)) as viewer:
        handles = [viewer.upload(png(colour=(n, n, n))).json()["image"] for n in range(3)]
        statuses = [viewer.http.get(f"/try/images/{handle}.png").status_code for handle in handles]
        assert statuses == [404, 200, 200]
        for body, status in (
            ({"image": handles[0], "instruction": "x"}, 404),
            ({"image": handles[2], "instruction": "  "}, 400),
            ({"image": handles[2], "instruction": "x" * 4001}, 400),
            ({"image": "../secret", "instruction": "x"}, 404),
        ):
            assert viewer.http.post("/try/runs", json=body, headers=OWN).status_code == status
            assert viewer.http.post("/try/runs", json=body).status_code == 403
        assert viewer.http.post("/try/images", content=png()).status_code == 403
        crossing = viewer.http.post("/try/images", content=png(), headers={**OWN, "Origin": "http://evil.example"})
        assert crossing.status_code == 403
        assert viewer.http.get("/try/images/..%2f..%2fx.png").status_code == 404
    assert not server.bodies


def test_samples_come_from_runs_and_from_the_package(server: ChatServer, tmp_path: Path) -> None:
    others = view_of(write_run(tmp_path / "run", [[1], [2]], instruction="<script>"))
    with trying(server.url, runs=others) as viewer:
        page = viewer.http.get("/try").text
        assert "<script>" not in page
        thumbs = re.findall(r'src="(/runs/[^"]+)"', page)
        assert len(thumbs) == 2
        assert {viewer.http.get(address).status_code for address in thumbs} == {200}
        keys = re.findall(r'data-sample="([^"]+)"', page)
        assert {key.rpartition("-")[0] for key in keys} == {"run", "sticker", "photo"}
        for key in (keys[0], "sticker-0", "photo-1"):
            taken = viewer.http.post("/try/samples", json={"key": key}, headers=OWN).json()
            assert viewer.http.get(f"/try/images/{taken['image']}.png").status_code == 200
        assert viewer.http.get("/try/samples/sticker-0.webp").headers["content-type"] == "image/webp"
        assert viewer.http.post("/try/samples", json={"key": "x"}, headers=OWN).status_code == 404
        assert viewer.http.get("/try/samples/x.webp").status_code == 404
        assert viewer.http.get("/runs/run/").text.count('href="/try"') == 1


def test_a_viewer_without_a_policy_says_how_to_have_one(tmp_path: Path) -> None:
    with TestClient(create_app(view_of(write_run(tmp_path / "run", [[1]])))) as client:
        page = client.get("/try")
        assert page.status_code == 404
        assert "start it with agentfly view --try" in page.text
        assert 'href="/try"' not in client.get("/runs/run/").text
        assert client.post("/try/images", content=png(), headers=OWN).status_code == 404


def test_long_and_strange_words_of_events_are_clipped() -> None:
    told = described(streaming.ToolStart("c", 0, 0, "x" * 999, {"a": "b" * 10**6, "c": {1, 2}}))
    assert told is not None
    assert len(told["name"]) == 200
    assert len(told["arguments"]) < 8100
    assert described(streaming.ChainStart("c")) is None
    assert described(streaming.Delta("c", 1, "\ud800")) == {"event": "delta", "turn": 1, "text": "\ud800"}


def test_a_folder_with_another_run_is_not_written_to(server: ChatServer, tmp_path: Path) -> None:
    options = PolicyOptions(base_url=server.url, model="m")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "config.yaml").touch()
    with pytest.raises(ConfigError, match="is a run of training: name a new folder"):
        open_session(options, QUICK, tmp_path / "training", "try")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        open_session(options, QUICK, tmp_path / "file", "try")
    write_run(tmp_path / "chains", [[1]])
    with pytest.raises(ConfigError, match="of another kind of run"):
        open_session(options, QUICK, tmp_path / "chains", "try")
    with trying(server.url, save=tmp_path / "mine"), pytest.raises(ConfigError, match="another process writes"):
        open_session(options, QUICK, tmp_path / "mine", "try")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the folder of a run, or give --try"),
        (["--model", "m"], "are for --try"),
        (["--save", "x"], "are for --try"),
        (["--try", "--base-url", "http://127.0.0.1:1/v1", "--port", "0"], "cannot reach http://127.0.0.1:1/v1"),
    ],
)
def test_the_command_says_what_is_missing(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["view", *arguments])
    assert result.exit_code != 0
    told = f"{result.output} {result.exception if isinstance(result.exception, AgentFlyError) else ''}"
    assert words in " ".join(re.sub(r"[│╭╰─╮╯]", " ", told).split())


def test_the_command_serves_the_page(server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def serve(runs: Any, settings: Any, on_start: Callable[[str], None], **more: Any) -> None:
        asked.append((list(runs), more))

    monkeypatch.setattr("agentfly.viewer.command.serve", serve)
    run = write_run(tmp_path / "run", [[1]])
    words = ["view", "--nodes", "127.0.0.1:1", "127.0.0.1:2", str(run), "--try", "--base-url", server.url]
    result = CliRunner().invoke(
        app, [*words, "--save", str(tmp_path / "kept"), "--max-turns", "3", "--tools", "edit,look"]
    )
    assert result.exit_code == 0, result.output
    ((runs, more),) = asked
    assert [found.path for found in runs] == [run]
    assert (more["save"], more["policy"].max_turns, more["policy"].tools) == (tmp_path / "kept", 3, ("edit", "look"))
    assert len(more["policy"].nodes) == 2
