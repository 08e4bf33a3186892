"""Answers to the prompts of demonstrations, beside what the labeler wrote: what a fine-tuned model is looked at by."""

from collections.abc import Sequence
from itertools import islice

from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.decoder import Decoder
from wuya.records import Demonstration
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.training import distributed


def sample_answers(
    model: Decoder,
    tokenizer: Tokenizer,
    demonstrations: Sequence[Demonstration],
    *,
    count: int,
    max_tokens: int,
    seed: int,
    dtype: distributed.DtypeName,
) -> list[dict[str, object]]:
    """Answers to the first `count` prompts that leave room for one, as rows of samples.jsonl; none off the main rank.

    The model is in training mode before and after.
    """
    if not count or not distributed.is_main():
        return []
    room = max(model.config.context_length // 2, model.config.context_length - max_tokens)
    encoded = ((item, encode_prompt(tokenizer, item.prompt)) for item in demonstrations)
    chosen = list(islice(((item, ids) for item, ids in encoded if len(ids) <= room), count))
    model.eval()
    with distributed.autocast(model.device, distributed.resolve_dtype(dtype, model.device)):
        answers = Engine(model, tokenizer, seed=seed).generate(
            [ids for _, ids in chosen], SamplingParams(max_tokens=max_tokens)
        )
    model.train()
    return [
        {
            "prompt": item.prompt.messages[-1].content,
            "completion": tokenizer.decode(answer.token_ids, skip_special=True),
            "finish_reason": answer.finish_reason,
            "demonstration": item.completion,
        }
        for (item, _), (answer, *_) in zip(chosen, answers, strict=True)
    ]
