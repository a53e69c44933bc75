"""Keys of inputs, and which worker has met them."""

import pytest

from engine.affinity import Affinity, block_keys
from engine.requests import ChatInput, ModelInput, PartsInput, TextInput, TokenInput
from tests.engine.requests import generation

TURNS = (("user", "What is a fox?"), ("assistant", "An animal."), ("user", "And a cat?"))


def keys(model_input: ModelInput, salt: str = "") -> tuple[int, ...]:
    return block_keys(generation(model_input, cache_salt=salt))


@pytest.mark.parametrize(
    ("model_input", "blocks"),
    [
        (TextInput("x" * 255), 0),
        (TextInput("x" * 256), 1),
        (TextInput("x" * 1000), 3),
        (TokenInput((5,) * 63), 0),
        (TokenInput((5,) * 130), 2),
        (ChatInput(TURNS), 3),
        (PartsInput(), 0),
    ],
)
def test_a_key_for_each_whole_block(model_input: ModelInput, blocks: int) -> None:
    assert len(keys(model_input)) == blocks
    assert len(set(keys(model_input))) == blocks


def test_inputs_that_begin_alike_share_the_keys_of_their_beginning() -> None:
    one, other = keys(TextInput("x" * 512 + "y" * 512)), keys(TextInput("x" * 512 + "z" * 512))
    assert one[:2] == other[:2]
    assert set(one[2:]).isdisjoint(other[2:])
    assert keys(ChatInput(TURNS))[:1] == keys(ChatInput(TURNS[:1]))
    # The same block after another beginning is another one.
    assert set(keys(TextInput("a" * 256 + "x" * 256))).isdisjoint(keys(TextInput("x" * 512)))


def test_salts_and_kinds_of_input_have_nothing_in_common() -> None:
    assert set(keys(TextInput("x" * 600), "a")).isdisjoint(keys(TextInput("x" * 600), "b"))
    assert set(keys(TokenInput((5,) * 64))).isdisjoint(keys(TextInput("x" * 256)))


def test_a_worker_matches_as_far_as_it_has_met_the_beginning() -> None:
    affinity = Affinity(100)
    affinity.note(1, (10, 11, 12))
    assert [affinity.match(worker, (10, 11, 13)) for worker in (0, 1)] == [0, 2]
    assert affinity.match(1, (10, 11, 12, 14)) == 3
    assert affinity.match(1, (11, 12)) == 2
    assert affinity.match(1, ()) == 0
    affinity.forget(1)
    assert affinity.match(1, (10,)) == 0
    affinity.forget(1)


def test_the_oldest_are_forgotten_from_their_end() -> None:
    affinity = Affinity(4)
    affinity.note(0, (1, 2, 3))
    affinity.note(0, (7, 8))
    assert affinity.match(0, (1, 2, 3)) == 2
    assert affinity.match(0, (7, 8)) == 2
    affinity.note(0, (1, 2))
    affinity.note(0, (9,))
    assert affinity.match(0, (7, 8)) == 1
    assert affinity.match(0, (1, 2)) == 2
    affinity.note(0, tuple(range(100, 110)))
    assert affinity.match(0, tuple(range(100, 110))) == 4


def test_what_uses_no_prefix_cache_has_no_keys() -> None:
    assert block_keys(generation(ChatInput(TURNS), prefix_cache=False)) == ()
