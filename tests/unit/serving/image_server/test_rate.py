"""The rate limit of the image server: 429 with Retry-After for the client that sends too much, and for no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from agentfly.serving.image_server.http.app import client_of
from agentfly.vision.base import EditParams
from agentfly.vision.remote import remote_engines
from tests.unit.serving.image_server.running import PUPPET, Running, as_text, plain, png, running


@pytest.fixture
def server() -> Iterator[Running]:
    with running(**PUPPET, max_requests_per_minute=2) as server:
        yield server


def ask(server: Running, client: str = "127.0.0.1", **fields: Any) -> httpx.Response:
    """An edit that a proxy on this machine hands on for a client."""
    body = {"prompt": "invert", "image": as_text(plain()), **fields}
    headers = {"x-forwarded-for": client}
    return httpx.post(f"{server.url}/v1/images/edits", json=body, headers=headers, timeout=60)


@pytest.mark.slow
def test_a_client_beyond_its_limit_gets_429_and_when_to_come_back(server: Running) -> None:
    assert [ask(server).status_code for _ in range(2)] == [200, 200]
    refused = ask(server)
    assert refused.status_code == 429
    seconds = int(refused.headers["retry-after"])
    assert 50 <= seconds <= 60
    error = refused.json()["error"]
    assert error["message"] == f"a client may send 2 requests a minute to this server: try again in {seconds} s"
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "agentfly_image_rate_limited_total 1.0" in httpx.get(f"{server.url}/metrics").text


@pytest.mark.slow
def test_other_clients_and_requests_for_the_state_are_not_limited(server: Running) -> None:
    assert [ask(server, "203.0.113.5").status_code for _ in range(3)] == [200, 200, 429]
    assert [ask(server, "203.0.113.6").status_code for _ in range(3)] == [200, 200, 429]
    for path in ("/health", "/v1/models", "/gpu/status", "/metrics"):
        assert {httpx.get(f"{server.url}{path}").status_code for _ in range(3)} == {200}


@pytest.mark.slow
def test_requests_without_the_key_use_up_nobodys_limit() -> None:
    with running(**PUPPET, max_requests_per_minute=1, api_key="sk-image") as server:
        url, body = f"{server.url}/v1/images/edits", {"prompt": "invert", "image": as_text(plain())}
        assert {httpx.post(url, json=body).status_code for _ in range(3)} == {401}
        key = {"authorization": "Bearer sk-image"}
        assert [httpx.post(url, json=body, headers=key, timeout=60).status_code for _ in range(2)] == [200, 429]


@pytest.mark.slow
def test_openais_client_understands_it(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for _ in range(2):
            client.images.edit(image=("a.png", png(plain())), prompt="invert")
        with pytest.raises(openai.RateLimitError, match="2 requests a minute"):
            client.images.edit(image=("a.png", png(plain())), prompt="invert")


@pytest.mark.slow
async def test_a_pool_goes_to_the_next_server(server: Running) -> None:
    assert [server.edit("invert").status_code for _ in range(3)] == [200, 200, 429]
    with running(**PUPPET) as other:
        nodes = [tuple(url.removeprefix("http://").split(":")) for url in (server.url, other.url)]
        engines = remote_engines([(host, int(port)) for host, port in nodes], timeout=60)
        try:
            for _ in range(4):
                image = await engines.editor.edit(plain(), "invert", EditParams())
                assert image.getpixel((0, 0)) == (55, 225, 215)
        finally:
            await engines.close()
    finished = [each.metric("requests_total", operation="edit", status=200) for each in (server, other)]
    assert finished == [2, 4]


@pytest.mark.parametrize(
    ("host", "known_as"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_one_holder_of_ipv6_addresses_is_one_client(host: str, known_as: str) -> None:
    assert client_of({"client": (host, 1)}) == known_as
    assert client_of({"client": None}) == ""
