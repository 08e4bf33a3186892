"""What samples a run's episodes: its prompts, and an engine with as many completions at once as memory holds."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from wuya.console import say
from wuya.errors import ConfigError
from wuya.inference.caches import cache_bytes_per_token
from wuya.inference.engine import Engine
from wuya.inference.kv_cache import compute_dtype, free_cache_bytes
from wuya.inference.sampling import SamplingParams
from wuya.models import native
from wuya.rlhf.episodes import EpisodeSource
from wuya.rlhf.ppo_models import PPOModels
from wuya.rlhf.prompts import load_prompt_ids
from wuya.training import distributed

BYTES_PER_TRAINED = 16
"""Of a trained parameter while the run goes on: gradient, two moments, moving average, float32 each."""


def episode_source(
    models: PPOModels,
    path: Path,
    *,
    num_samples: int = 1,
    max_prompt_tokens: int,
    max_tokens: int,
    max_batch_size: int,
    cache_gib: float,
    temperature: float,
    seed: int,
    microbatch_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
) -> EpisodeSource:
    """Answers the prompts in `path` with the current policy and scores the completions; the fields of a recipe's
    config, `num_samples` completions of each prompt."""
    names, prompts = load_prompt_ids(
        path,
        models.tokenizer,
        max_prompt_tokens=max_prompt_tokens,
        max_tokens=max_tokens,
        context_length=models.engine_model.config.context_length,
        read_by=[models.score],
    )
    engine = rollout_engine(
        models, prompts, max_tokens=max_tokens, max_batch_size=max_batch_size, cache_gib=cache_gib, dtype=dtype
    )
    return EpisodeSource(
        engine=engine,
        tokenizer=models.tokenizer,
        prompts=prompts,
        prompt_names=names,
        num_samples=num_samples,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=temperature),
        policy=models.policy,
        reference=models.reference,
        value_model=models.value_model,
        score=models.score,
        seed=seed,
        microbatch_tokens=microbatch_tokens,
        device=device,
        dtype=dtype,
    )


def rollout_engine(
    models: PPOModels,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    max_batch_size: int,
    cache_gib: float,
    dtype: torch.dtype,
) -> Engine:
    """An engine on the policy's weights whose keys and values fit into memory beside what training will need.

    Args:
        prompts: all of the run, so that the size holds for every update and a resumed run has the same.
        cache_gib: GiB of keys and values; 0: half of what is free now and not needed by training.
        dtype: the run's arithmetic, in which keys and values are kept.
    """
    if cache_gib < 0:
        raise ConfigError("`cache_gib` can't be negative", found=str(cache_gib), hint="`--cache_gib 0`: automatic")
    engine = Engine(models.engine_model, models.tokenizer, max_batch_size=max_batch_size)
    device = models.engine_model.device
    engine.max_cache_bytes = int(cache_gib * 2**30) or free_cache_bytes(
        device, reserve=BYTES_PER_TRAINED * sum(_num_trained(model) for model in (models.policy, models.value_model))
    )
    length = min(engine.max_length, max(map(len, prompts)) + max_tokens)
    with distributed.autocast(device, dtype):
        rows, size = engine.rows_at_once(length), length * cache_bytes_per_token(models.engine_model) / 2**20
        kept_in = str(compute_dtype(models.engine_model)).removeprefix("torch.")
        engine.max_batch_size = rows  # in every update, and in a resumed run
    limit = "as `max_batch_size` says" if rows == max_batch_size else f"{engine.max_cache_bytes / 2**30:.1f} GiB hold"
    say(f"sampling {rows} answers at once, {limit}: {size:,.1f} MiB of {kept_in} keys and values each at most")
    return engine


def sampling_choices(engine: Engine) -> dict[str, str]:
    """What the last digits of rollouts depend on, for `Run(kernels=)`: a resumed run says where it differs."""
    return {**native.decoding(), "answers at once": str(engine.max_batch_size)}


def _num_trained(model: object) -> int:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
