"""Results of foreign tools: every kind of content becomes text or a named image, within bounds."""

from __future__ import annotations

import base64
import io

import mcp_types as types
import pytest
from PIL import Image

from agentfly.errors import ToolError
from agentfly.images import ImageLimits, ImageStore, ImageView
from agentfly.tools import ToolResult
from agentfly.tools.mcp import McpServer
from agentfly.tools.mcp.results import observation, with_images

LIMITS = ImageLimits(max_pixels=10_000, max_bytes=100_000, allow_files=False)
RED, BLUE = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))


def base64_of(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shown(image: Image.Image) -> types.ImageContent:
    return types.ImageContent(data=base64_of(image), mime_type="image/png")


def said(text: str) -> types.TextContent:
    return types.TextContent(text=text)


async def read(*content: types.ContentBlock, view: ImageView | None = None, **options: object) -> ToolResult:
    looks = bool(options.pop("looks", False))
    structured, failed = options.pop("structured", None), bool(options.pop("failed", False))
    server = McpServer(command="x", **options)
    result = types.CallToolResult(content=list(content), structured_content=structured, is_error=failed)
    return await observation(result, server, view or ImageView(ImageStore()), LIMITS, looks=looks)


async def test_text_and_images_keep_their_order_and_images_are_named() -> None:
    view = ImageView(ImageStore())
    view.add(RED)
    result = await read(said("before"), shown(BLUE), said("between"), shown(RED), view=view)
    assert result.text == "before\nimg_2\nbetween\nimg_1"
    assert result.images == (view.handle("img_2"), view.handle("img_1"))
    assert result.engine == "mcp:x"
    assert (await read(shown(BLUE), looks=True)).text == "view_1"


async def test_resources_sounds_and_links_are_told_in_words() -> None:
    text = types.TextResourceContents(uri="file:///a.txt", text="inside")
    picture = types.BlobResourceContents(uri="file:///a.png", blob=base64_of(RED), mime_type="image/png")
    file = types.BlobResourceContents(uri="file:///a.zip", blob="AAAA", mime_type="application/zip")
    result = await read(
        *(types.EmbeddedResource(resource=resource) for resource in (text, picture, file)),
        types.ResourceLink(uri="https://x/y", name="y"),
        types.AudioContent(data="AAAA", mime_type="audio/wav"),
    )
    assert result.text.splitlines() == [
        "inside",
        "img_1",
        "(a file of 3 bytes: file:///a.zip)",
        "(more at https://x/y)",
        "(a sound, which cannot be heard here)",
    ]


async def test_what_is_beyond_the_bounds_is_left_out_and_said() -> None:
    result = await read(said("x" * 90), said("y" * 90), *[shown(RED), shown(BLUE)], max_text=100, max_images=1)
    assert result.text.splitlines() == [
        "x" * 90,
        "y" * 10,
        "img_1",
        "(a further image is left out)",
        "(80 further characters are left out)",
    ]
    many = await read(*[said("z")] * 100)
    assert many.text.splitlines()[-1] == "(36 further parts are left out)"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("!!!", "not the base64 of an image"),
        ("", "not the base64 of an image"),
        (base64.b64encode(b"GIF89a" + bytes(50)).decode(), "broken or cut off"),
        (base64.b64encode(b"<svg xmlns='x'/>").decode(), "an SVG drawing"),
        (base64_of(Image.new("L", (500, 500))), "10000 are allowed"),
        (base64.b64encode(bytes(200_000)).decode(), "100000 are allowed"),
    ],
)
async def test_an_image_that_cannot_be_used_is_told_and_the_rest_stands(data: str, reason: str) -> None:
    result = await read(said("here"), types.ImageContent(data=data, mime_type="image/png"))
    assert result.images == ()
    assert result.text.startswith("here\n(an image that cannot be used: ")
    assert reason in result.text


async def test_structured_results_are_read_where_there_is_no_text() -> None:
    assert (await read(structured={"a": [1, 2]})).text == '{"a": [1, 2]}'
    told = await read(said("two"), structured={"a": 2})
    assert (told.text, told.data) == ("two", {"a": 2})
    assert (await read(said("x"), structured={"a": "y" * 200_000})).data == {}
    assert (await read()).text == "done"


async def test_a_failure_is_an_error_with_its_text() -> None:
    with pytest.raises(ToolError, match=r"^no such file$"):
        await read(said("no such file"), failed=True)
    with pytest.raises(ToolError, match="gave no reason"):
        await read(failed=True)


async def test_ids_become_images_in_the_form_that_the_server_takes() -> None:
    view = ImageView(ImageStore())
    view.add(RED)
    view.add(BLUE)
    plain = McpServer(command="x")
    given = {"picture": "img_1", "several": ["img_2", "img_1"], "words": "img_1"}
    filled = await with_images(given, frozenset(("picture", "several")), plain, view)
    assert filled["words"] == "img_1"
    assert Image.open(io.BytesIO(base64.b64decode(str(filled["picture"])))).tobytes() == RED.tobytes()
    assert isinstance(filled["several"], list)
    assert len(filled["several"]) == 2
    uri = McpServer(command="x", image_form="data-uri")
    assert str((await with_images(given, frozenset(("picture",)), uri, view))["picture"]).startswith("data:image/png;")
    with pytest.raises(ToolError, match="unknown image id 'img_3'"):
        await with_images({"picture": "img_3"}, frozenset(("picture",)), plain, view)
