"""The gallery: one file, hostile text harmless, two orders in CSS alone."""

from __future__ import annotations

import re
from pathlib import Path

from agentfly.evaluation.report.gallery import GalleryCard, thumbnail, write_gallery
from tests.unit.training.quickstart.report.made_up import photo


def card(id_: str, task_type: str, score: float | None, **more: object) -> GalleryCard:
    return GalleryCard(id_, task_type, f"do {id_}", score, **more)  # type: ignore[arg-type]


def page(tmp_path: Path, *cards: GalleryCard, total: int = 0) -> str:
    return write_gallery(tmp_path / "g.html", "A run", cards, total=total or len(cards)).read_text(encoding="utf-8")


def test_cards_stand_worst_first_and_by_type_under_their_headings(tmp_path: Path) -> None:
    html = page(tmp_path, card("w", "b", None), card("x", "a", 1.0), card("y", "b", 50.0), card("z", "a", 99.0))
    orders = re.findall(r'style="--worst:(\d+);--type:(\d+)">\s*<header>.*?<b>do (\w)</b>', html, re.DOTALL)
    headings = re.findall(r'--type:(\d+)">(\w)</h2>', html)
    assert [id_ for _, _, id_ in sorted(orders, key=lambda order: int(order[0]))] == ["w", "x", "y", "z"]
    places = [(int(place), id_) for _, place, id_ in orders] + [(int(place), name) for place, name in headings]
    assert [name for _, name in sorted(places)] == ["a", "x", "z", "b", "w", "y"]


def test_what_is_not_scored_is_no_zero(tmp_path: Path) -> None:
    html = page(tmp_path, card("w", "b", None, scores=(("judge", "not scored: it refused"),)))
    assert '<span class="badge bad">not scored</span>' in html
    assert "judge: not scored: it refused" in html
    assert ">0.0<" not in html


def test_it_is_one_file_that_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    image = thumbnail(photo(1, 500))
    evil = '<script>alert(1)</script><img src="https://evil.test/x.png">'
    html = page(tmp_path, card(evil, evil, 5.0, source=image, steps=((evil, image),), errors=(evil, "\ud800")))
    assert "<script" not in html
    assert "https://" not in html.replace("&#34;https://", "")
    assert html.count(f'src="{image}"') == 2
    assert "default-src 'none'" in html
    assert len(image) < 60_000


def test_it_says_when_it_does_not_show_everything(tmp_path: Path) -> None:
    assert "1 of 7 tasks, those with the lowest scores" in page(tmp_path, card("w", "b", 1.0), total=7)
    assert "lowest" not in page(tmp_path, card("w", "b", 1.0))
