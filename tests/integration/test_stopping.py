"""What ends a generation, and that its text is whole, on the real model."""

from typing import Any

import pytest

from penstock.v1 import generation_pb2 as pb
from tests.integration.tokens import EOS_ID, TOKENIZER, VOCAB_SIZE, byte_ids, ids_of, text_of
from tests.service.calls import Answer, endless, generate, start
from tests.service.servers import Stubs

PROMPT = "Once upon a time"
ONE_TOKEN = {"max_tokens_per_chunk": 1}
GREEDY = {"temperature": 0}


def forced(*ids: int, **sampling: Any) -> dict[str, Any]:
    """Sampling that chooses among these ids only."""
    return {**GREEDY, "logit_bias": dict.fromkeys(ids, 100.0), **sampling}


async def greedy(stubs: Stubs, tokens: int, **stopping: Any) -> Answer:
    """The most likely continuation of PROMPT, token by token."""
    message = start(
        PROMPT,
        sampling=GREEDY,
        stopping={"max_tokens": tokens, "ignore_eos": True, **stopping},
        flow=ONE_TOKEN,
    )
    return await generate(stubs.generation, message)


def a_word_id() -> int:
    """A token that is a word of letters after a space."""
    return next(n for n in range(VOCAB_SIZE) if TOKENIZER.decode([n]).strip().isalpha())


async def test_a_stop_string_across_tokens_ends_the_text_before_it(stubs: Stubs) -> None:
    free = await greedy(stubs, 40)
    pieces = [chunk.text for chunk in free.chunks]
    at = next(n for n in range(8, 40) if len(pieces[n]) > 1 and len(pieces[n + 1]) > 1)
    stop = pieces[at][-1] + pieces[at + 1][:2]
    stopped = await greedy(stubs, 40, stop_strings=["never in it", stop])
    assert stopped.text == free.text[: free.text.index(stop)]
    assert (stopped.end.reason, stopped.end.stop_string) == (pb.FINISH_REASON_STOP, stop)
    assert not stopped.end.HasField("stop_token_id")
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]


async def test_a_stop_string_that_does_not_complete_is_not_lost(stubs: Stubs) -> None:
    free = await greedy(stubs, 30)
    almost = free.text[-5:] + "and then never"
    held = await greedy(stubs, 30, stop_strings=[almost])
    assert held.text == free.text
    assert (held.end.reason, held.end.stop_string) == (pb.FINISH_REASON_LENGTH, "")


async def test_a_stop_token_ends_the_output_and_is_not_part_of_it(stubs: Stubs) -> None:
    free = await greedy(stubs, 40)
    stop_id = next(token_id for token_id in free.token_ids[5:] if token_id not in free.token_ids[:5])
    stopped = await greedy(stubs, 40, stop_token_ids=[stop_id])
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop_id)]
    assert (stopped.end.reason, stopped.end.stop_token_id) == (pb.FINISH_REASON_STOP, stop_id)


async def test_end_of_text_ends_the_output(stubs: Stubs) -> None:
    answer = await generate(stubs.generation, start(sampling=forced(EOS_ID)))
    assert (answer.text, answer.chunks) == ("", [])
    assert (answer.end.reason, answer.end.stop_token_id) == (pb.FINISH_REASON_STOP, EOS_ID)


async def test_end_of_text_can_be_ignored(stubs: Stubs) -> None:
    answer = await generate(stubs.generation, endless(6, sampling=forced(EOS_ID)))
    assert answer.token_ids == [EOS_ID] * 6
    assert answer.end.reason == pb.FINISH_REASON_LENGTH


async def test_end_of_text_is_not_chosen_before_min_tokens(stubs: Stubs) -> None:
    message = start(sampling=forced(EOS_ID), stopping={"min_tokens": 7, "max_tokens": 50})
    answer = await generate(stubs.generation, message)
    assert len(answer.token_ids) == 7
    assert EOS_ID not in answer.token_ids
    assert answer.end.reason == pb.FINISH_REASON_STOP


async def test_stop_strings_do_not_count_before_min_tokens(stubs: Stubs) -> None:
    word_id = a_word_id()
    word = TOKENIZER.decode([word_id]).strip()
    message = endless(20, sampling=forced(word_id))
    message.stopping.min_tokens = 5
    message.stopping.stop_strings.append(word)
    answer = await generate(stubs.generation, message)
    assert answer.token_ids == [word_id] * 5
    assert answer.text.count(word) == 4
    assert answer.end.stop_string == word


async def test_penalties_and_bias_change_what_is_chosen(stubs: Stubs) -> None:
    free = await greedy(stubs, 12)
    banned = {"temperature": 0, "logit_bias": dict.fromkeys(free.token_ids, -100.0)}
    other = await generate(stubs.generation, endless(12, sampling=banned))
    assert not set(other.token_ids) & set(free.token_ids)


@pytest.mark.parametrize("character", ["ώ", "日", "𐎕"])
async def test_a_character_of_several_tokens_comes_whole(stubs: Stubs, character: str) -> None:
    # Every byte of the character but the one that is due was used lately, and is penalised for it. That
    # works for bytes that no model of English has seen: their logits are far below 0.
    ids = byte_ids(character)
    due_next = {"repetition_penalty": 10, "presence_penalty": 2, "frequency_penalty": 2}
    sampling = forced(*ids, **due_next, penalty_context_tokens=len(ids) - 1)
    message = endless(4 * len(ids), sampling=sampling, flow=ONE_TOKEN, tokens={"ids": ids * 2})
    answer = await generate(stubs.generation, message)
    assert answer.token_ids == ids * 4
    assert answer.text == character * 4
    assert [chunk.text for chunk in answer.chunks] == [*[""] * (len(ids) - 1), character] * 4


async def test_a_character_that_is_cut_off_by_the_end_leaves_no_replacement_character(stubs: Stubs) -> None:
    ids = byte_ids("日")
    sampling = forced(*ids, repetition_penalty=10, presence_penalty=2, penalty_context_tokens=2)
    answer = await generate(stubs.generation, endless(8, sampling=sampling, tokens={"ids": ids * 2}))
    assert answer.token_ids == [*ids * 2, *ids[:2]]
    assert answer.text == "日日"


async def test_a_leading_space_is_kept(stubs: Stubs) -> None:
    word_id = next(n for n in range(VOCAB_SIZE) if (t := TOKENIZER.decode([5, n])[-3:]) and t[0] == " ")
    answer = await generate(stubs.generation, endless(3, sampling=forced(word_id)))
    assert answer.text == text_of([word_id] * 3, after=ids_of(PROMPT))
    assert answer.text.startswith(" ")
