"""Durable runs: killed at any moment, they go on where they were."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import ImageEditingAgent, StopReason, Trajectory
from agentfly.agents.llm_backends import ClientBackend, ClientConfig, GenerationRequest, ScriptedBackend
from agentfly.agents.run import RunLog
from agentfly.agents.trajectory_file import FILE_NAME, IMAGES
from agentfly.errors import BackendError, ConfigError
from agentfly.images import ImageStore
from agentfly.tools import Toolset
from tests import programs
from tests.unit.agents.conftest import ChatServer, failure

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'


class Counted:
    """An agent that counts what it is asked, and fails on demand."""

    def __init__(self, failing: str | None = None, latency: float = 0.0) -> None:
        self.asked: list[str] = []
        self._failing = failing
        self.agent = ImageEditingAgent("s", backend=ScriptedBackend(self._script, latency))

    def _script(self, request: GenerationRequest) -> str:
        self.asked.append(request.session_id)
        if self._failing is not None and self._failing in request.session_id:
            raise BackendError("the server is gone")
        return EDIT if request.request_id.endswith("-0") else ANSWER


def conversations(number: int = 3) -> list[dict[str, Any]]:
    made = []
    for index in range(number):
        image = Image.new("RGB", (16, 16), (40 * index + 40, 90, 200))
        content = [{"type": "image", "image": image}, {"type": "text", "text": "Darker."}]
        made.append({"id": f"task{index}", "messages": [{"role": "user", "content": content}], "source": image})
    return made


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]


async def test_finished_chains_are_returned_and_not_run_again(tmp_path: Path) -> None:
    first = Counted()
    result = await first.agent.run(conversations(), num_chains=2, log_dir=tmp_path)
    assert len(first.asked) == 12
    assert sorted(entry["trajectory"]["id"] for entry in lines(tmp_path)) == sorted(t.id for t in result)

    second = Counted()
    again = await second.agent.run(conversations(), num_chains=2, log_dir=tmp_path)
    assert second.asked == []
    assert [t.id for t in again] == [t.id for t in result]
    assert [t.messages for t in again] == [t.messages for t in result]
    assert again[0].stop_reason is StopReason.ANSWERED
    # Images of an earlier process are there for everything that needs them.
    final = again[0].final_image or ""
    assert second.agent._get_image(final).tobytes() == first.agent.store.get(final).tobytes()
    assert again.to_openai_jsonl(tmp_path / "out.jsonl") == 6


async def test_more_chains_and_more_conversations_are_added_to_a_log(tmp_path: Path) -> None:
    await Counted().agent.run(conversations(1), log_dir=tmp_path)
    second = Counted()
    result = await second.agent.run(conversations(2), num_chains=2, log_dir=tmp_path)
    assert sorted(set(second.asked)) == ["task0-1", "task1-0", "task1-1"]
    assert [t.id for t in result] == ["task0-0", "task0-1", "task1-0", "task1-1"]


async def test_conversations_without_an_id_are_known_by_their_content(tmp_path: Path) -> None:
    def anonymous() -> list[dict[str, Any]]:
        return [{"messages": conversation["messages"]} for conversation in [*conversations(2), conversations(1)[0]]]

    first = await Counted().agent.run(anonymous(), log_dir=tmp_path)
    assert len({t.id for t in first}) == 3
    second = Counted()
    again = await second.agent.run(anonymous(), log_dir=tmp_path)
    assert second.asked == []
    assert [t.id for t in again] == [t.id for t in first]


async def test_chains_that_a_fault_ended_are_run_again(tmp_path: Path) -> None:
    result = await Counted(failing="task1").agent.run(conversations(), log_dir=tmp_path)
    assert [t.stop_reason for t in result].count(StopReason.BACKEND_ERROR) == 1
    second = Counted()
    again = await second.agent.run(conversations(), log_dir=tmp_path)
    assert set(second.asked) == {"task1-0"}
    assert all(t.answered for t in again)
    assert len(lines(tmp_path)) == 4  # the failure stays on record
    third = Counted()
    await third.agent.run(conversations(), log_dir=tmp_path)
    assert third.asked == []


async def test_a_torn_last_line_is_cut_off_and_its_chain_run_again(tmp_path: Path) -> None:
    await Counted().agent.run(conversations(), log_dir=tmp_path)
    data = (tmp_path / FILE_NAME).read_bytes()
    torn = json.loads(data.splitlines()[-1])["trajectory"]["id"]
    for cut in (1, 2, 40, len(data.splitlines()[-1])):
        (tmp_path / FILE_NAME).write_bytes(data[:-cut])
        second = Counted()
        again = await second.agent.run(conversations(), log_dir=tmp_path)
        assert set(second.asked) == {torn}
        assert len(again) == len(lines(tmp_path)) == 3


async def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    await Counted().agent.run(conversations(), log_dir=tmp_path)
    text = (tmp_path / FILE_NAME).read_text()
    (tmp_path / FILE_NAME).write_text("{]\n" + text)
    with pytest.raises(ConfigError, match="line 1 is damaged"):
        await Counted().agent.run(conversations(), log_dir=tmp_path)


async def test_a_log_of_other_conversations_is_refused(tmp_path: Path) -> None:
    await Counted().agent.run(conversations(), log_dir=tmp_path)
    others = conversations()
    others[1]["messages"][0]["content"][1]["text"] = "Brighter."
    with pytest.raises(ConfigError, match=r"another conversation under the id 'task1-0'.*another log_dir"):
        await Counted().agent.run(others, log_dir=tmp_path)


async def test_two_runs_do_not_write_to_one_log(tmp_path: Path) -> None:
    held = RunLog(tmp_path)
    with pytest.raises(ConfigError, match="another process writes"):
        await Counted().agent.run(conversations(), log_dir=tmp_path)
    held.close()
    assert len(await Counted().agent.run(conversations(), log_dir=tmp_path)) == 3


async def test_what_is_done_when_a_run_is_cancelled_stays_done(tmp_path: Path) -> None:
    stuck = asyncio.Event()

    async def script(request: GenerationRequest) -> str:
        if request.session_id == "task2-0":
            stuck.set()
            await asyncio.Event().wait()
        return EDIT if request.request_id.endswith("-0") else ANSWER

    agent = ImageEditingAgent("s", backend=ScriptedBackend(script))
    task = asyncio.create_task(agent.run(conversations(), log_dir=tmp_path))
    await asyncio.wait_for(stuck.wait(), 20)
    while not (tmp_path / FILE_NAME).exists() or len(lines(tmp_path)) < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reasons = {t.id: t.stop_reason for t in agent.trajectories}
    assert reasons["task2-0"] is StopReason.CANCELLED
    assert reasons["task0-0"] is reasons["task1-0"] is StopReason.ANSWERED
    second = Counted()
    await second.agent.run(conversations(), log_dir=tmp_path)
    assert set(second.asked) == {"task2-0"}


async def test_a_chain_is_on_disk_before_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    synced: set[str] = set()
    fsync = os.fsync

    def count(file: int) -> None:
        fsync(file)
        synced.add(name := Path(os.readlink(f"/proc/self/fd/{file}")).name)
        if name == FILE_NAME:
            found = lines(tmp_path)
            written.append(len(found))
            # A line that survives a power cut must not name an image that did not.
            handles = found[-1]["trajectory"]["names"].values()
            assert {f"{handle}.png" for handle in handles} <= synced

    monkeypatch.setattr(os, "fsync", count)
    await Counted().agent.run(conversations(), log_dir=tmp_path)
    assert written == [1, 2, 3]


@pytest.mark.parametrize("nothing", ["", " ", 3, True])
async def test_a_log_dir_that_names_no_folder_is_refused(nothing: Any) -> None:
    with pytest.raises(ConfigError, match="names no folder: give its path, or leave log_dir out"):
        await Counted().agent.run(conversations(1), log_dir=nothing)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("where", [IMAGES, FILE_NAME])
async def test_a_disk_that_fills_up_is_one_error_with_the_path(
    number: int, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        if where in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=f"log_dir='{tmp_path}' cannot be written: .*{where}"):
        await Counted().agent.run(conversations(), log_dir=tmp_path)
    monkeypatch.undo()
    again = Counted()
    result = await again.agent.run(conversations(), log_dir=tmp_path)
    assert all(t.answered for t in result)
    assert len(lines(tmp_path)) == 3


async def test_a_log_dir_that_cannot_be_made_is_one_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"log_dir='{tmp_path}/file/log' cannot be written: .*not a folder"):
        await Counted().agent.run(conversations(1), log_dir=tmp_path / "file" / "log")


async def test_a_disk_that_has_no_room_for_the_first_image_is_one_error_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("agentfly.images.store.png_bytes", full)
    with pytest.raises(ConfigError, match=f"log_dir='{tmp_path}' cannot be written: .*{IMAGES}"):
        await Counted().agent.run(conversations(), log_dir=tmp_path)


@pytest.mark.parametrize("fault", [FileNotFoundError(2, "gone", "prices.csv"), ConnectionResetError("reset")])
async def test_a_fault_of_the_system_in_the_users_own_code_is_not_blamed_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    counted = Counted()

    def toolset(_: object) -> Toolset:
        raise fault

    monkeypatch.setattr(counted.agent, "toolset", toolset)
    with pytest.raises(type(fault)) as caught:
        await counted.agent.run(conversations(1), log_dir=tmp_path)
    assert caught.value is fault


async def test_images_that_were_damaged_between_two_starts_are_mended_by_the_chains_that_run(tmp_path: Path) -> None:
    await Counted(failing="task1").agent.run(conversations(2), log_dir=tmp_path)
    [failed] = [entry["trajectory"] for entry in lines(tmp_path) if entry["trajectory"]["stop_reason"] != "answered"]
    [source] = failed["images"]
    (tmp_path / IMAGES / f"{source}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = await Counted().agent.run(conversations(2), log_dir=tmp_path)
    assert all(t.answered for t in result)
    assert ImageStore(tmp_path / IMAGES).get(source).size == (16, 16)


PROGRAM = """
import asyncio
from agentfly.agents import AgentSettings
from tests.unit.agents.test_run_log import Counted, conversations

async def main():
    counted = Counted(latency=0.01)
    counted.agent.settings = AgentSettings(max_concurrent_chains=3)
    await counted.agent.run(conversations(6), num_chains=3, log_dir={folder!r})

asyncio.run(main())
"""


def killed_run(program: str, file: Path, at_bytes: int | None, delay: float) -> bool:
    """Start the program and kill it once its log is longer than `at_bytes`; returns whether it came to its end."""
    with programs.started("-c", program) as process:
        while at_bytes is not None and process.poll() is None:
            if file.exists() and file.stat().st_size >= at_bytes:
                time.sleep(delay)  # anywhere in what comes next
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.0005)
        return process.wait(60) == 0


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_comes_to_its_end(tmp_path: Path) -> None:
    """SIGKILL at random moments: every line that was whole stays, and no chain is written twice."""
    drawn = random.Random(7)
    file = tmp_path / "log" / FILE_NAME
    program = PROGRAM.format(folder=str(file.parent))
    before: list[dict[str, Any]] = []
    for attempt in range(6):
        size = file.stat().st_size if file.exists() else 0
        at = None if attempt == 5 else size + drawn.randrange(0, 8000)
        finished = killed_run(program, file, at, drawn.uniform(0, 0.02))
        assert finished or attempt < 5
        data = file.read_bytes()
        whole = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
        assert whole[: len(before)] == before
        before = whole
        if finished:  # on a busy machine the killer may come too late
            break
    assert attempt
    ids = [entry["trajectory"]["id"] for entry in before]
    assert len(ids) == len(set(ids)) == 18
    kept = RunLog(file.parent)
    for trajectory in kept.finished.values():
        assert trajectory.answered
        assert [kept.images.get(handle).size for handle in trajectory.names.values()] == [(16, 16)] * 2


def test_metadata_that_json_does_not_know_is_told_in_words() -> None:
    image = Image.new("L", (4, 4))
    trajectory = Trajectory("t-0", "t", [], metadata={"target": image, "raw": b"xx", "where": Path("a"), "s": {2, 1}})
    back = Trajectory.from_json(trajectory.to_json()).metadata
    assert back["target"].startswith("img_")
    assert back == {"target": back["target"], "raw": "<2 bytes>", "where": "a", "s": [1, 2]}


@pytest.mark.parametrize("around", ["{}\n", " {} ", "{}"])
async def test_a_key_is_in_no_stored_trajectory_whatever_the_server_repeats(
    around: str, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = around.format("sk-very-secret")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server.say(failure(400, f"illegal header value {f'Bearer {key}'.encode()!r}"))
    backend = ClientBackend("m", ClientConfig(base_url=server.url.replace("://", "://me:pa55word@")))
    result = await ImageEditingAgent("s", backend=backend).run(conversations(1), log_dir=tmp_path)
    stored = (tmp_path / FILE_NAME).read_text()
    assert result[0].stop_reason is StopReason.BACKEND_ERROR
    assert "illegal header value b'Bearer ***" in stored
    assert "sk-very-secret" not in stored
    assert "pa55word" not in stored
