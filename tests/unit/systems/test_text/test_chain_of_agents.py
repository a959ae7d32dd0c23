"""Parts of a text: nothing is lost, none is too long, and they end where the text has an end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.systems.text.chain_of_agents import estimated_starts, split, tokenizer_starts
from tests.tiny.tokenizers import clip_tokenizer

TEXTS = st.text(alphabet=st.sampled_from("ab Z0.,!?\n\t。漢字éж-"), max_size=600) | st.text(max_size=300)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(8, 60), st.integers(0, 4))
def test_parts_cover_the_text_in_order(text: str, size: int, overlap: int) -> None:
    chunks = split(text, size, overlap)
    assert chunks[0].start == 0
    assert chunks[-1].end == len(text)
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.tokens <= size
        assert len(estimated_starts(chunk.text)) <= size
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
        assert len(estimated_starts(text[after.start : before.end])) <= overlap


@given(TEXTS)
def test_an_estimate_counts_every_character(text: str) -> None:
    starts = estimated_starts(text)
    assert starts == sorted(set(starts))
    assert bool(starts) == bool(text)
    assert not starts or starts[0] == 0


def test_parts_end_at_paragraphs_then_sentences_then_words() -> None:
    paragraphs = "one two three four five six\n\nseven eight nine ten eleven"
    assert split(paragraphs, 8, 0)[0].text == "one two three four five six"
    sentences = "One two three four five six. Seven eight nine ten eleven."
    assert split(sentences, 8, 0)[0].text == "One two three four five six."
    words = " ".join(["word"] * 30)
    assert all(chunk.text.strip().endswith("word") for chunk in split(words, 8, 2))


def test_the_next_part_begins_with_the_end_of_the_one_before() -> None:
    text = " ".join(f"w{number}" for number in range(100))
    chunks = split(text, 20, 8)
    assert all(after.start < before.end for before, after in itertools.pairwise(chunks))


@pytest.mark.slow
def test_a_tokenizer_counts_exactly() -> None:
    tokenizer = clip_tokenizer()
    starts = tokenizer_starts(tokenizer)
    text = "a red cat sat on the mat. " * 20
    assert len(starts(text)) == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert all(len(starts(chunk.text)) <= 31 for chunk in split(text, 30, 5, starts))


@pytest.mark.parametrize(("size", "overlap"), [(4, 0), (100, 60), (100, -1)])
def test_sizes_that_do_not_go_together(size: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="half of it"):
        split("text", size, overlap)


@pytest.mark.slow
def test_a_tokenizer_that_does_not_exist(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="there is no such folder: give a folder with a tokenizer"):
        tokenizer_starts(f"{tmp_path}/nothing")
