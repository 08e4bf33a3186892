"""The two layouts of completions, one episode per row and a prompt read once, give the same numbers."""

import torch

from tests.inference.naive import sharp_model
from wuya.models.reward_model import ScalarModel
from wuya.rlhf.answer_rows import answer_rows, sequence_rows
from wuya.rlhf.model_outputs import completion_logprobs, completion_values

PROMPTS = [[1, 2, 3], [1, 2, 3], [4], [1, 2, 3]]
COMPLETIONS = [[5, 6], [7, 8, 9, 10], [11, 12, 13], [14]]


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    ids_BT, mask_BT = torch.zeros(4, 7, dtype=torch.int64), torch.zeros(4, 6)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        ids_BT[row, : len(prompt) + len(completion)] = torch.tensor([*prompt, *completion])
        mask_BT[row, len(prompt) - 1 : len(prompt) + len(completion) - 1] = 1.0
    return ids_BT, mask_BT


def test_both_layouts_give_the_same_logprobs_and_values() -> None:
    model, (ids_BT, mask_BT) = sharp_model(), padded()
    values_of = ScalarModel(sharp_model(seed=2))
    apart = sequence_rows(ids_BT, mask_BT)
    [together] = answer_rows(PROMPTS, COMPLETIONS, max_length=16)
    assert len(apart.ids_NT) == 4 and len(together.ids_NT) == 2
    for numbers in (
        lambda rows: completion_logprobs(model, rows, device="cpu", temperature=0.7),
        lambda rows: completion_values(values_of, rows, device="cpu"),
    ):
        alone_BT = apart.put(numbers(apart), mask_BT)
        shared_BT = torch.zeros_like(mask_BT)
        shared_BT[together.answer_B] = together.put(numbers(together), mask_BT[together.answer_B])
        torch.testing.assert_close(alone_BT, shared_BT, atol=1e-5, rtol=1e-4)
        assert (alone_BT[mask_BT == 0] == 0).all() and (alone_BT[mask_BT > 0] != 0).all()


def test_the_last_token_of_a_sequence_row_is_predicted_but_never_read() -> None:
    ids_BT, mask_BT = padded()
    rows = sequence_rows(ids_BT, mask_BT)
    assert rows.inputs("cpu")["ids_BT"].shape == (4, 6) and rows.inputs("cpu")["segments_BT"] is None
    tokens = rows.tokens()
    assert tokens.id_C.tolist() == [token for completion in COMPLETIONS for token in completion]
    assert torch.equal(torch.stack([tokens.row_C, tokens.before_C], dim=1), mask_BT.nonzero())
