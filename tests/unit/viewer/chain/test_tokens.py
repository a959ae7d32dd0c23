"""The token stream: texts of ids, shades, images at their places, and traces that do not fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from agentfly.agents.token_check import TokenTrace
from agentfly.images import ImageStore
from agentfly.viewer.chain.setup import RunSetup
from agentfly.viewer.chain.sight import Sight, find_sight, seen_size
from agentfly.viewer.chain.tokens import Given, ImageRun, advantage_shade, shade_of, token_stream
from agentfly.viewer.chain.vocabulary import Vocabulary, find_vocabulary
from tests.unit.viewer.chain.lines import POLICY, trajectory, with_tokens


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    found, where = find_vocabulary(str(POLICY), RunSetup())
    assert found is not None
    assert where.endswith("tokenizer.json")
    return found


@pytest.fixture
def store() -> ImageStore:
    return ImageStore()


def test_placeholders_become_the_images_of_the_chain(vocabulary: Vocabulary, store: ImageStore) -> None:
    chain = with_tokens(trajectory(store))
    stream = token_stream(chain, vocabulary)
    assert stream is not None
    assert stream.problem == ""
    images = [piece for piece in (*stream.prompt, *stream.turns[0].observed) if isinstance(piece, ImageRun)]
    assert [(run.shot and run.shot.handle, run.count) for run in images] == [(chain.images[0], 9), (chain.images[1], 9)]
    assert stream.lengths == dict.fromkeys(chain.images, 9)
    texts = [piece.text.shown for piece in stream.prompt if isinstance(piece, Given)]
    assert texts == ["<|im_start|>user\n<|vision_start|>", "<|vision_end|>Go<|im_end|>"]
    assert stream.prompt_count == len(chain.tokens.prompt_ids) if chain.tokens else False


def test_sampled_tokens_have_shades_and_the_end_of_the_turn(vocabulary: Vocabulary, store: ImageStore) -> None:
    stream = token_stream(with_tokens(trajectory(store)), vocabulary)
    assert stream is not None
    tokens = stream.turns[0].sampled
    assert "".join(token.text for token in tokens[:-1]).replace("␣", " ") == "turn 0"
    assert tokens[-1].text == "<|im_end|>"
    assert tokens[-1].special
    assert all(token.sampled for token in tokens)
    assert {token.shade for token in tokens} == {"3"}
    assert tokens[0].logprob == "-0.500"
    assert stream.turns[0].mean == pytest.approx(-0.5)


def test_without_a_vocabulary_turns_have_counts_and_shades(store: ImageStore) -> None:
    stream = token_stream(with_tokens(trajectory(store)), None)
    assert stream is not None
    assert stream.turns[0].sampled == ()
    assert stream.turns[0].count > 3
    assert stream.turns[0].shade == "3"
    assert stream.lengths == {}


def test_a_backend_of_messages_has_no_stream(vocabulary: Vocabulary, store: ImageStore) -> None:
    assert token_stream(trajectory(store), vocabulary) is None


def test_traces_that_do_not_fit_are_shown_and_doubted(vocabulary: Vocabulary, store: ImageStore) -> None:
    chain = with_tokens(trajectory(store))
    chain.turns = [replace(chain.turns[0], start=5, end=10**9), replace(chain.turns[1], start=-7, end=2)]
    chain.tokens = TokenTrace([1, 2], [3, -4, 10**12], [1, 0], [-0.5, math.nan, -math.inf])
    stream = token_stream(chain, vocabulary)
    assert stream is not None
    assert "spans" in stream.problem
    assert len(stream.turns) == 2
    chain.turns = [replace(chain.turns[0], start=0, end=3)]
    stream = token_stream(chain, vocabulary)
    assert stream is not None
    assert [token.shade for token in stream.turns[0].sampled] == ["3", "x", "x"]
    assert [token.sampled for token in stream.turns[0].sampled] == [True, False, False]
    assert stream.turns[0].sampled[1].text == "⟨-4⟩"


def test_the_tokenizer_of_another_policy_is_doubted(vocabulary: Vocabulary, store: ImageStore) -> None:
    chain = with_tokens(trajectory(store))
    chain.turns = [replace(chain.turns[0], text="something else"), chain.turns[1]]
    stream = token_stream(chain, vocabulary)
    assert stream is not None
    assert "--tokenizer" in stream.problem


def test_more_placeholders_than_images_are_told(vocabulary: Vocabulary, store: ImageStore) -> None:
    chain = replace(with_tokens(trajectory(store)), images=[])
    stream = token_stream(chain, vocabulary)
    assert stream is not None
    assert "more images" in stream.problem


@pytest.mark.parametrize("text", ["Hello wörld", "日本語 😀", "a\n\tb"])
def test_pieces_show_every_byte_once(vocabulary: Vocabulary, text: str) -> None:
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(POLICY / "tokenizer.json")).encode(text).ids
    names = [named.text for named in vocabulary.names(ids)]
    assert len(names) == len(ids)
    # A character of several tokens is written by the one that completes it.
    assert "".join(name.partition("→")[2] or ("" if name.startswith("⟨") else name) for name in names) == text


def test_bytes_that_are_no_character_are_shown_in_hex(vocabulary: Vocabulary) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(POLICY / "tokenizer.json"))
    lead, letter = tokenizer.token_to_id("ð"), tokenizer.token_to_id("a")
    assert [named.text for named in vocabulary.names([lead, letter, letter])] == ["⟨F0⟩", "⟨61⟩", "a"]


def test_a_missing_or_broken_tokenizer_says_how_to_name_one(tmp_path: Path) -> None:
    found, words = find_vocabulary(None, RunSetup(policies=(tmp_path,)))
    assert found is None
    assert "--tokenizer" in words
    (tmp_path / "tokenizer.json").write_text("{}")
    found, words = find_vocabulary(None, RunSetup(policies=(tmp_path,)))
    assert found is None
    assert "is no tokenizer" in words
    found, words = find_vocabulary(str(tmp_path / "none"), RunSetup())
    assert found is None
    assert str(tmp_path / "none") in words


def test_shades_grow_with_surprise_and_with_the_size_of_an_advantage() -> None:
    assert [shade_of(math.log(p)) for p in (1.0, 0.95, 0.8, 0.6, 0.3, 0.2, 0.05, 0.001)] == list("01234567")
    assert shade_of(None) == "x"
    assert [advantage_shade(a) for a in (None, 0.0, 0.3, -0.6, 2.0)] == ["x", "0", "1", "-2", "3"]


def test_the_policy_sees_images_in_multiples_of_its_patches() -> None:
    sight = find_sight([POLICY])
    assert sight == Sight(28, 56 * 56, 84 * 84)
    assert sight is not None
    assert sight.size(168, 168) == (84, 84)
    assert sight.size(10, 10) == (56, 56)
    assert seen_size(sight, (168, 168), 9) == (84, 84)
    # Another number of tokens: the image was shown in another way than these settings say.
    assert seen_size(sight, (168, 168), 36) is None
    assert seen_size(None, (168, 168), 9) is None


@pytest.mark.parametrize("config", ["[]", "{", '{"patch_size": 0}', '{"size": 3}', '{"image_processor": null}'])
def test_a_broken_processor_is_not_known(tmp_path: Path, config: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(config)
    assert find_sight([tmp_path]) is None


def test_settings_of_older_processors_are_read(tmp_path: Path) -> None:
    config = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12845056}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert find_sight([tmp_path]) == Sight(28, 3136, 12845056)
