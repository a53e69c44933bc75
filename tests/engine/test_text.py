"""Pieces of text, token by token, concatenate to what the tokenizer decodes as a whole."""

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from engine.mlx_worker.model import LoadedModel
    from engine.mlx_worker.text import DecoderFactory

pytestmark = pytest.mark.usefixtures("mlx")

_PIECES = ["<unk>", "<s>", "▁a", "b", "▁cat", "▁", "<0x0A>"]


def sentence_piece() -> Tokenizer:
    """As Llama 2 has it: spaces are part of a word's first piece, bytes stand for unknown characters."""
    vocab = {piece: index for index, piece in enumerate(_PIECES)}
    vocab |= {f"<0x{byte:02X}>": 100 + byte for byte in range(256) if byte != 10}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def metaspace() -> Tokenizer:
    """As T5 has it: one decoder that strips the first space."""
    tokenizer = sentence_piece()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def byte_level() -> Tokenizer:
    """As GPT-2 and most since have it, here with a token for each byte and some that were added."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(["<think hard>", "é"])
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def byte(value: int) -> int:
    return 100 + value


class WrappedTokenizer:
    """What DecoderFactory needs of mlx-lm's TokenizerWrapper. tokenizer None: a slow one, of Python."""

    def __init__(self, tokenizer: Tokenizer | None, detokenizer: Any = None) -> None:
        self._tokenizer = self
        self.backend_tokenizer = tokenizer
        self.detokenizer = detokenizer


def factory(wrapped: Any) -> "DecoderFactory":
    from engine.mlx_worker.text import DecoderFactory

    return DecoderFactory(wrapped)


def pieces(wrapped: Any, prompt: list[int], output: list[int]) -> list[str]:
    decoder = factory(wrapped).make(prompt)
    return [decoder.push(token_id) for token_id in output]


def added_text(tokenizer: Any, prompt: list[int], output: list[int]) -> str:
    """What the output adds to the text of the prompt, by decoding both as a whole."""
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    after = tokenizer.decode(prompt + output, skip_special_tokens=True)
    return str(after.removeprefix(before))


@given(text=st.text(max_size=30), prompt=st.text("ab 🦊", max_size=8))
def test_text_that_was_encoded_comes_back_exactly(loaded: "LoadedModel", text: str, prompt: str) -> None:
    tokenizer = loaded.tokenizer._tokenizer
    prompt_ids = tokenizer.encode(prompt)
    output = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(pieces(loaded.tokenizer, prompt_ids, output)) == text


@given(output=st.lists(st.integers(0, 1023), max_size=24), prompt=st.lists(st.integers(5, 1023), max_size=9))
def test_pieces_of_random_ids_concatenate_to_the_decoded_whole(
    loaded: "LoadedModel", output: list[int], prompt: list[int]
) -> None:
    """Text that ends within a character is held back until more text follows, here of two words."""
    tokenizer = loaded.tokenizer._tokenizer
    fox = tokenizer.encode(" fox", add_special_tokens=False)
    # The prompt too, which else has no text of its own to compare with.
    prompt, output = prompt + fox, output + fox
    joined = "".join(pieces(loaded.tokenizer, prompt, output))
    assert joined == added_text(tokenizer, prompt, output)


@given(output=st.lists(st.integers(0, 260), max_size=12))
def test_byte_level_pieces_are_what_the_library_decodes(output: list[int]) -> None:
    """Every byte, added tokens, special ones and unknown ids, in any order."""
    tokenizer = byte_level()
    end = tokenizer.encode("end").ids
    joined = "".join(pieces(WrappedTokenizer(tokenizer), end, output + end))
    assert joined == added_text(tokenizer, end, output + end)


def test_an_emoji_over_several_tokens_comes_with_the_last_one(loaded: "LoadedModel") -> None:
    ids = loaded.tokenizer._tokenizer.encode("a🐉b", add_special_tokens=False)
    assert len(ids) > 3
    found = pieces(loaded.tokenizer, [0], ids)
    assert "🐉" in found
    assert "".join(found) == "a🐉b"
    assert not any("\ufffd" in piece for piece in found)


def test_a_new_word_after_the_prompt_keeps_its_space(loaded: "LoadedModel") -> None:
    tokenizer = loaded.tokenizer._tokenizer
    output = tokenizer.encode(" upon a time", add_special_tokens=False)
    assert "".join(pieces(loaded.tokenizer, tokenizer.encode("Once"), output)) == " upon a time"


def test_special_tokens_have_no_text(loaded: "LoadedModel") -> None:
    tokenizer = loaded.tokenizer._tokenizer
    special = sorted(tokenizer.all_special_ids)
    fox = tokenizer.encode(" fox", add_special_tokens=False)
    assert "".join(pieces(loaded.tokenizer, special, [*special, *fox, *special])) == " fox"


def test_ids_that_the_tokenizer_does_not_know_have_no_text(loaded: "LoadedModel") -> None:
    """A model may have more rows in its embedding than its tokenizer has tokens."""
    fox = loaded.tokenizer._tokenizer.encode(" fox", add_special_tokens=False)
    assert "".join(pieces(loaded.tokenizer, [0], [50_000, *fox, 60_000])) == " fox"


def test_a_stream_that_is_taken_up_anywhere_goes_on_with_the_next_character(loaded: "LoadedModel") -> None:
    """Also within a character: nothing is lost and nothing of the prompt is repeated."""
    text = "a cat 🐉 b"
    ids = loaded.tokenizer._tokenizer.encode(text, add_special_tokens=False)
    for cut in range(1, len(ids)):
        before = pieces(loaded.tokenizer, [], ids[:cut])
        after = pieces(loaded.tokenizer, ids[:cut], ids[cut:])
        assert "".join(before + after) == text


@pytest.mark.parametrize("make", [sentence_piece, metaspace])
def test_sentence_piece_words_keep_their_spaces(make: Any) -> None:
    wrapped = WrappedTokenizer(make())
    assert pieces(wrapped, [2, 3], [4, 2, 3]) == [" cat", " a", "b"]
    assert pieces(wrapped, [1, 2, 3], [1, 4, 1, 4]) == ["", " cat", "", " cat"]
    assert "".join(pieces(wrapped, [2, 5], [4])) == "  cat".removeprefix(" ")


def test_bytes_become_a_character_when_they_are_complete() -> None:
    fox = [byte(value) for value in "🦊".encode()]
    assert pieces(WrappedTokenizer(sentence_piece()), [2], [*fox, 4]) == ["", "", "", "🦊", " cat"]
    assert pieces(WrappedTokenizer(sentence_piece()), [2, *fox[:2]], [*fox[2:], 4]) == ["", "🦊", " cat"]


def test_a_broken_character_costs_only_itself() -> None:
    """The library's decoder gives up on it, because a run of bytes is valid or not as a whole."""
    fox = [byte(value) for value in "🦊".encode()]
    found = pieces(WrappedTokenizer(sentence_piece()), [2], [*fox, byte(0xFF), 4, 4])
    assert "".join(found).replace("\ufffd", "") == "🦊 cat cat"


FOX, E_ACUTE = [byte(value) for value in "🦊".encode()], [byte(value) for value in "é".encode()]
RUNS = [[2], [3], [4], [4, 4], FOX, FOX[:2], FOX[2:], E_ACUTE, E_ACUTE[1:], [byte(0xFF)]]


@given(runs=st.lists(st.sampled_from(RUNS), max_size=8))
def test_no_sequence_of_bytes_stops_the_decoder_or_loses_a_word(runs: list[list[int]]) -> None:
    output = [token_id for run in runs for token_id in run]
    found = "".join(pieces(WrappedTokenizer(sentence_piece()), [2], output))
    words = sum(token_id == 4 for token_id in output)
    assert found.count(" cat") == words


def test_a_tokenizer_without_a_rust_backend_uses_mlx_lms_detokenizer(loaded: "LoadedModel") -> None:
    wrapped = WrappedTokenizer(None, loaded.tokenizer.detokenizer)
    ids = loaded.tokenizer._tokenizer.encode("a cat 🐉 b c", add_special_tokens=False)
    joined = "".join(pieces(wrapped, [], ids))
    assert joined
    assert "a cat 🐉 b c".startswith(joined)
