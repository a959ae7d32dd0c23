"""The tools over MCP: the SDK's own client opens, edits, reads and saves, and gets no more than the operator allows."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from pathlib import Path

import mcp_types as types
import pytest
from mcp import Client, MCPError
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.images import ImageStore, ImageView
from agentfly.serving.mcp import file_tools
from agentfly.serving.mcp.command import serve
from agentfly.serving.mcp.session import ImageBudget, Sessions, SessionStore
from agentfly.serving.mcp.settings import McpServerSettings, SessionLimits
from agentfly.tools import ImageTools, Toolset, tool
from agentfly.tools.decorator import tool_of
from agentfly.tools.groups import GROUPS, group_class, names_in
from tests.unit.serving.mcp.serving import RED, base64_of, client, images_of, made, opened, text_of


@tool
def shout(text: str) -> str:
    """Repeat."""
    return text.upper()


@tool
def break_down() -> str:
    """Fail by a bug."""
    raise RuntimeError("the password is swordfish")


@tool
async def take_long() -> str:
    """Never end."""
    await asyncio.Event().wait()
    return ""


OWN = "tests.unit.serving.mcp.test_server"


async def test_tools_are_listed_with_the_schemas_of_the_agent_and_no_final_one() -> None:
    async with client() as connected:
        listed = {tool.name: tool for tool in (await connected.list_tools()).tools}
    assert list(listed) == ["open_image", "detect_objects", "inpaint_image", "auto_inpaint_image", "qwen_edit_image"]
    for ours in Toolset([ImageTools.detect_objects, ImageTools.qwen_edit_image]):
        schema = {**listed[ours.name].input_schema}
        assert schema.pop("additionalProperties") is False
        assert schema == ours.parameters
        assert listed[ours.name].description == ours.description


@pytest.mark.parametrize("group", GROUPS)
async def test_every_group_of_tools_can_be_served(group: str) -> None:
    async with client(tools=(group,)) as connected:
        listed = {tool.name for tool in (await connected.list_tools()).tools}
    marked = (tool_of(attribute) for attribute in vars(group_class(group)).values())
    final = {tool.name for tool in marked if tool is not None and tool.final}
    assert listed == {"open_image", *names_in(group_class(group))} - final


async def test_an_image_goes_in_is_edited_and_comes_out_as_content_and_as_a_resource() -> None:
    source = Image.new("RGB", (64, 48), (40, 40, 40))
    async with client() as connected:
        result = await opened(connected, source)
        assert text_of(result).startswith("img_1: 64x48")
        edited = await connected.call_tool("qwen_edit_image", {"image_id": "img_1", "prompt": "make it brighter"})
        assert not edited.is_error
        (shown,) = images_of(edited)
        assert shown.size == (64, 48)
        assert min(low for low, _ in shown.convert("RGB").getextrema()) > 40  # type: ignore[misc]
        (link,) = [block for block in edited.content if isinstance(block, types.ResourceLink)]
        assert link.uri == "agentfly://images/img_2"
        assert [resource.name for resource in (await connected.list_resources()).resources] == ["img_1", "img_2"]
        (whole,) = (await connected.read_resource("agentfly://images/img_1")).contents
        assert isinstance(whole, types.BlobResourceContents)
        assert Image.open(io.BytesIO(base64.b64decode(whole.blob))).tobytes() == source.tobytes()
        templates = (await connected.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == ["agentfly://images/{id}"]


@pytest.mark.slow
async def test_a_large_image_is_shown_smaller_and_kept_whole() -> None:
    noise = Image.effect_noise((900, 600), 80).convert("RGB")
    async with client({"preview_side": 300}) as connected:
        result = await opened(connected, noise)
        assert "img_1, 900x600, shown as 300x200:" in text_of(result)
        assert [image.size for image in images_of(result)] == [(300, 200)]
        (whole,) = (await connected.read_resource("agentfly://images/img_1")).contents
        assert isinstance(whole, types.BlobResourceContents)
        assert Image.open(io.BytesIO(base64.b64decode(whole.blob))).size == (900, 600)
    async with client({"preview_side": 900}) as connected:
        (shown,) = images_of(await opened(connected, noise))
        assert (shown.format, shown.size) == ("JPEG", (900, 600)), "as PNG it would be larger than a message should be"


async def test_refusals_are_results_with_the_reason_and_unknown_tools_are_errors() -> None:
    async with client() as connected:
        await opened(connected, RED)
        wrong = {
            "detect_objects": ({"image_id": "img_9", "text_prompt": "x"}, "unknown image id 'img_9'"),
            "inpaint_image": ({"image_id": "img_1"}, "missing mask_id, prompt"),
            "qwen_edit_image": ({"image_id": "img_1", "prompt": "knit a jumper"}, ""),
        }
        for name, (arguments, said) in wrong.items():
            result = await connected.call_tool(name, arguments)
            assert result.is_error
            assert said in text_of(result)
        with pytest.raises(MCPError, match=r"unknown tool 'give_answer'"):
            await connected.call_tool("give_answer", {"final_image_id": "img_1"})
        with pytest.raises(MCPError, match="unknown image id 'img_7'"):
            await connected.read_resource("agentfly://images/img_7")
        with pytest.raises(MCPError, match="resources are images"):
            await connected.read_resource("file:///etc/passwd")


async def test_a_text_that_no_encoding_has_and_controls_of_terminals_are_replaced() -> None:
    async with client(tools=(f"{OWN}:shout",)) as connected:
        result = await connected.call_tool("shout", {"text": "a\ud800b\x1b[2J"})
        assert text_of(result) == "A\ufffdB\ufffd[2J"


async def test_a_bug_tells_the_client_nothing_of_what_is_inside() -> None:
    async with client(tools=(f"{OWN}:break_down",)) as connected:
        result = await connected.call_tool("break_down", {})
        assert result.is_error
        assert "swordfish" not in text_of(result)
        assert "the server's log says more" in text_of(result)


async def test_calls_end_in_time_and_too_many_are_refused() -> None:
    limits = {"calls": 1, "queue": 1, "call_seconds": 0.2}
    async with client(limits, tools=(f"{OWN}:take_long",)) as connected:
        results = await asyncio.gather(*(connected.call_tool("take_long", {}) for _ in range(3)))
        words = sorted(text_of(result) for result in results)
        assert [result.is_error for result in results] == [True] * 3
        assert words[0].startswith("take_long did not end within 0.2 s")
        assert words[2].startswith("too many calls wait here")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        (folder / "deep").mkdir(parents=True)
        RED.save(folder / "deep" / "red.png")
    (inside / "link.png").symlink_to(outside / "deep" / "red.png")
    (inside / "folder").symlink_to(outside)
    (inside / "notes.txt").write_text("no image")
    return inside, outside


async def test_paths_are_opened_within_the_roots_and_nowhere_else(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    async with client(root=(inside,)) as connected:
        for good in ("deep/red.png", inside / "deep/red.png", "deep/../deep/red.png"):
            assert text_of(await opened(connected, good)).startswith("img_1: 8x8")
        hostile: list[str | Path] = [
            "../outside/deep/red.png",
            outside / "deep/red.png",
            "link.png",
            "folder/deep/red.png",
            "/etc/passwd",
        ]
        hostile += [
            "~/red.png",
            "deep/red.png\0.jpg",
            "x" * 3000 + ".png",
            "/proc/self/environ",
            "",
            ".",
            "file:///etc/x",
        ]
        for path in hostile:
            result = await opened(connected, path)
            assert result.is_error, path
            assert not images_of(result)
        assert "this is text, not an image" in text_of(await opened(connected, "notes.txt"))
    async with client() as connected:
        assert "paths are not opened here" in text_of(await opened(connected, inside / "deep/red.png"))


def test_a_link_that_comes_in_after_the_check_is_not_followed(folders: tuple[Path, Path]) -> None:
    inside, _ = folders
    for name in ("link.png", "folder/deep/red.png"):
        with pytest.raises(Exception, match=r"cannot read|is no image file"):
            file_tools._read(inside / name, [inside], 10_000)


@pytest.mark.slow
async def test_images_beyond_the_limits_are_refused_before_they_are_decoded() -> None:
    bomb = Image.new("L", (6000, 6000))
    async with client({"pixels": 1_000_000, "body_bytes": 100_000}) as connected:
        assert "36000000 pixels, 1000000 are allowed" in text_of(await opened(connected, bomb))
        noise = Image.effect_noise((500, 500), 90)
        assert "100000 are allowed" in text_of(await opened(connected, noise))
        assert "addresses are not fetched" in text_of(await opened(connected, "http://127.0.0.1:1/x.png"))
        assert (await opened(connected, f"data:image/png;base64,{base64_of(RED)}")).is_error is False
    async with client({"allow_urls": True}) as connected:
        assert "not a public address" in text_of(await opened(connected, "http://127.0.0.1:1/x.png"))


async def test_saving_writes_new_files_in_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with client(out=out) as connected:
        await opened(connected, RED)

        async def save(name: str) -> types.CallToolResult:
            return await connected.call_tool("save_image", {"image_id": "img_1", "file_name": name})

        assert text_of(await save("a.png")) == f"saved as {out / 'a.png'}"
        assert Image.open(out / "a.png").getpixel((0, 0)) == (255, 0, 0)
        (out / "dangling.png").symlink_to(tmp_path / "elsewhere.png")
        for wrong in (
            "a.png",
            "dangling.png",
            "../b.png",
            "/tmp/b.png",
            "b.exe",
            "b",
            "",
            ".png",
            "..",
            "x/y.png",
            "b\0.png",
        ):
            assert (await save(wrong)).is_error, wrong
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "dangling.png", "out"]
    async with client() as connected:
        assert "save_image" not in [tool.name for tool in (await connected.list_tools()).tools]


async def test_a_session_forgets_the_images_that_were_not_used_for_longest() -> None:
    size = 4 * 16 * 16 + 2048
    async with client({"session_bytes": 2 * size}) as connected:
        for colour in ("red", "green"):
            await opened(connected, Image.new("RGB", (16, 16), colour))
        await connected.read_resource("agentfly://images/img_1")
        await opened(connected, Image.new("RGB", (16, 16), "blue"))
        assert [resource.name for resource in (await connected.list_resources()).resources] == ["img_1", "img_3"]
        lost = await connected.call_tool("detect_objects", {"image_id": "img_2", "text_prompt": "x"})
        assert "not held any more" in text_of(lost)
        again = await opened(connected, Image.new("RGB", (16, 16), "green"))
        assert text_of(again).startswith("img_2:")
        assert "a session keeps" in text_of(await opened(connected, Image.new("RGB", (64, 64))))


def test_the_memory_of_all_sessions_is_bounded_together() -> None:
    size = 4 * 16 * 16 + 2048
    sessions = Sessions(lambda view: Toolset(), session_bytes=10 * size, memory_bytes=3 * size)
    one, two = sessions.get("one"), sessions.get("two")
    for colour in ("red", "green"):
        one.view.add(Image.new("RGB", (16, 16), colour))
        two.view.add(Image.new("RGB", (16, 16), colour))
    assert sessions.budget.used == one.store.used + two.store.used == 3 * size
    assert not one.store.held(one.view.handle("img_1"))
    sessions.end("two")
    assert sessions.budget.used == one.store.used == size
    assert one.view.get("img_2").getpixel((0, 0)) == (0, 128, 0)


def test_idle_sessions_end_and_active_ones_do_not() -> None:
    sessions = Sessions(lambda view: Toolset(), session_bytes=1, memory_bytes=1, idle_seconds=0.0)
    for name in ("idle", "active"):
        sessions.get(name)
    with sessions.during_request("active"):
        sessions.end_idle()
        assert len(sessions) == 1
    sessions.end_idle()
    assert len(sessions) == 0


def test_a_store_that_discards_an_image_has_it_no_more(tmp_path: Path) -> None:
    for store in (ImageStore(), ImageStore(tmp_path), SessionStore(ImageBudget(10**6), 10**6)):
        handle = store.put(RED)
        assert handle in store
        store.discard(handle)
        assert handle not in store
    assert list(tmp_path.iterdir()) == []


def test_settings_and_tools_are_checked_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--root: there is no folder"):
        McpServerSettings(root=(tmp_path / "none",))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out: the folder .* cannot be made"):
        McpServerSettings(out=tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match=r"--sessions: .*greater"):
        SessionLimits(sessions=0)
    with pytest.raises(ConfigError, match="unknown tool 'edti'"):
        serve(McpServerSettings(tools=("edti",)))
    with pytest.raises(ConfigError, match="unknown engines"):
        serve(McpServerSettings(), "clasical")


async def test_two_servers_share_no_images() -> None:
    async with Client(made()[0].server) as one, Client(made()[0].server) as two:
        await opened(one, RED)
        assert (await two.list_resources()).resources == []
    assert list(ImageView(ImageStore())) == []


async def test_the_base64_of_a_small_image_is_no_path_even_where_paths_are_opened(folders: tuple[Path, Path]) -> None:
    async with client(root=(folders[0],)) as connected:
        assert text_of(await opened(connected, RED)).startswith("img_1: 8x8")
        assert "No such file" in text_of(await opened(connected, "nothing.png"))


async def test_a_folder_that_is_opened_as_an_image_leaves_no_descriptor_open(folders: tuple[Path, Path]) -> None:
    (folders[0] / "inner").mkdir()
    async with client(root=(folders[0],)) as connected:
        await opened(connected, "inner")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            assert "is no image file" in text_of(await opened(connected, "inner"))
        assert len(os.listdir("/proc/self/fd")) == before


async def test_of_calls_that_save_under_one_name_at_once_one_succeeds(tmp_path: Path) -> None:
    async with client(out=tmp_path) as connected:
        await opened(connected, RED)
        arguments = {"image_id": "img_1", "file_name": "same.png"}
        results = await asyncio.gather(*(connected.call_tool("save_image", arguments) for _ in range(4)))
    assert sorted(bool(result.is_error) for result in results) == [False, True, True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["same.png"]


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a" * 240 + ".png", "a\nb.png", "half\ud800.png"])
async def test_a_name_that_no_file_can_have_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    async with client(out=tmp_path) as connected:
        await opened(connected, RED)
        refused = await connected.call_tool("save_image", {"image_id": "img_1", "file_name": name})
    assert refused.is_error
    assert "internal error" not in text_of(refused)
    assert list(tmp_path.iterdir()) == []


async def test_refusals_of_giant_arguments_are_short() -> None:
    giant = "x" * 1_000_000
    async with client() as connected:
        refused = await connected.call_tool("qwen_edit_image", {"image_id": giant, "prompt": "dark"})
        assert len(text_of(refused)) < 1000
        with pytest.raises(MCPError) as fault:
            await connected.read_resource(f"agentfly://images/{giant}")
        assert len(str(fault.value)) < 1000


def test_very_small_images_count_with_what_they_take_beside_their_pixels() -> None:
    sessions = Sessions(lambda view: Toolset(), session_bytes=20_000, memory_bytes=20_000)
    session = sessions.get("one")
    for number in range(200):
        session.view.add(Image.new("RGB", (1, 1), (number, 0, 0)))
    assert sum(session.store.held(session.view.handle(name)) for name in session.view) < 20


async def test_a_session_names_a_bounded_number_of_images() -> None:
    async with client({"images": 2}) as connected:
        for colour in ("red", "green"):
            assert not (await opened(connected, Image.new("RGB", (8, 8), colour))).is_error
        assert "begin another" in text_of(await opened(connected, Image.new("RGB", (8, 8), "blue")))
