"""Image nodes, with real loopback servers."""

from __future__ import annotations

from agentfly.doctor import DoctorRequest, Examination
from agentfly.doctor.checks import services
from tests.unit.doctor.judged import judged, only
from tests.unit.vision.remote.fake_node import FakeNode


def asked(*addresses: str) -> list[tuple[str, str]]:
    return judged(services.nodes(Examination(DoctorRequest(nodes=addresses))))


def test_a_healthy_node_tells_what_it_does() -> None:
    with FakeNode().up() as node:
        address = f"127.0.0.1:{node.address[1]}"
        assert asked(address) == [("ok", f"http://{address}: agentfly with fake-model: detect, edit, inpaint")]


def test_what_no_node_offers_is_told_once() -> None:
    with FakeNode(capabilities=("edit",)).up() as first, FakeNode(capabilities=("edit",)).up() as second:
        found = asked(*(f"http://127.0.0.1:{node.address[1]}/v1/" for node in (first, second)))
    assert [level for level, _ in found] == ["ok", "ok", "warning"]
    assert found[2][1].startswith("no node offers inpaint or detect")


def test_nodes_that_start_fail_are_strangers_or_absent() -> None:
    with FakeNode().up() as starting, FakeNode().up() as failing, FakeNode(owner="nobody").up() as stranger:
        starting.health, failing.health = 503, 500
        ports = [node.address[1] for node in (starting, failing, stranger)]
        found = asked(*(f"127.0.0.1:{port}" for port in ports), "127.0.0.1:1")
    assert [level for level, _ in found] == ["warning", "error", "error", "error"]
    assert "is not ready yet" in found[0][1]
    assert "health check answered 500" in found[1][1]
    assert "does not tell what kind of server it is" in found[2][1]
    assert "cannot connect" in found[3][1]


def test_no_nodes_and_no_address() -> None:
    assert asked()[0][0] == "skipped"
    assert (
        "--nodes: 'ftp://x' is not HOST:PORT" in only(services.nodes(Examination(DoctorRequest(nodes=("ftp://x",)))))[1]
    )
