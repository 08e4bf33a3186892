import pytest

from wuya.records import Candidate, Message, Prompt, Ranking, ToolCall
from wuya.rlhf.ranked_prompts import Vote, ranked_prompts
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_prompt


def test_nine_answers_have_36_pairs_and_a_batch_of_64_prompts_2304() -> None:
    vote = Vote(rows=tuple(range(9)), ranks=(3, 1, 2, 9, 8, 7, 4, 5, 6), labeler="a")
    assert len(vote.pairs) == 36 and 64 * len(vote.pairs) == 2304
    assert all(vote.ranks[better] < vote.ranks[worse] for better, worse in vote.pairs)


def test_ties_make_no_pair() -> None:
    assert Vote(rows=(0, 1, 2), ranks=(1, 1, 2), labeler="a").pairs == [(0, 2), (1, 2)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["what is this? a crow, a very old crow, and it can speak"] * 3, vocab_size=280)


def vote(id: str, text: str, labeler: str = "a") -> Ranking:
    return Ranking(Prompt(id, (Message("user", text),)), (Candidate("a crow"), Candidate("old")), (1, 2), labeler)


@pytest.mark.parametrize("order", [1, -1], ids=["short first", "long first"])
def test_rows_that_share_an_id_by_accident_are_prompts_of_their_own(tokenizer: Tokenizer, order: int) -> None:
    rows = [vote("0", "what is this?"), vote("0", "what is this, a crow or a very old crow that can speak?")][::order]
    prompts, dropped = ranked_prompts(rows, tokenizer, max_length=200)
    assert dropped == 0 and len(prompts) == 2
    for prompt, row in zip(prompts, rows, strict=True):
        ids = encode_prompt(tokenizer, row.prompt.messages)
        assert prompt.prompt_length == len(ids)
        assert all(sequence[: len(ids)] == ids for sequence in prompt.sequences)


def test_votes_on_one_prompt_are_one_batch_element_whatever_ids_they_have(tokenizer: Tokenizer) -> None:
    rows = [vote("row 1", "what is this?", "a"), vote("row 2", "what is this?", "b")]
    [prompt], _ = ranked_prompts(rows, tokenizer, max_length=200)
    assert [v.labeler for v in prompt.votes] == ["a", "b"] and len(prompt.sequences) == 2


def test_an_answer_that_calls_a_tool_is_read_as_the_template_writes_it(tokenizer: Tokenizer) -> None:
    prompt = Prompt("p", (Message("user", "what is this?"),))
    call = Candidate("a crow", tool_calls=(ToolCall("speak", "{}"),), reasoning="it can speak")
    [found], _ = ranked_prompts([Ranking(prompt, (call, Candidate("a crow")), (1, 2), "a")], tokenizer, max_length=200)
    answers = [tokenizer.decode(sequence[found.prompt_length :]) for sequence in found.sequences]
    assert answers == [
        "<think>\nit can speak\n</think>\n\na crow\n"
        '<tool_call>\n{"name": "speak", "arguments": {}}\n</tool_call><|im_end|>',
        "a crow<|im_end|>",
    ]
