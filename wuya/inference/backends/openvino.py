"""OpenVINO GenAI behind the engine's interface: its continuous batching on Intel's and AMD's CPUs, our text handling.

    engine = LocalEngine({"policy": "model.gguf"}, library="openvino")     # `wuya serve model.gguf --engine openvino`

It gets token ids and gives token ids: tokenizer, chat template, stop strings, whole characters and events are ours, as
with torch. It reads GGUF files (float16 and quantised ones of Llama without biases, Qwen2 and Qwen3) itself; any other
checkpoint is exported to one first, in a temporary folder. Its sampler takes a seed a request and gives the sampled
token's log-prob, but no alternatives, no logit bias; hidden states and scores of a given text it doesn't give at all.
A step holds Python's lock, so in a service it belongs in a process of its own.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
import torch

from wuya.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
from wuya.checkpoints.gguf import describe_gguf
from wuya.checkpoints.gguf_writer import Precision, save_gguf
from wuya.checkpoints.hf_folder import weight_files
from wuya.checkpoints.pretrained import hf_family
from wuya.console import warn
from wuya.errors import CheckpointError, ConfigError
from wuya.inference.backends.chat import knows_tools
from wuya.inference.backends.completion import Completion, Vocabulary
from wuya.inference.backends.loading import Quantize, fingerprint
from wuya.inference.backends.protocol import (
    Event,
    Failed,
    Finished,
    GenerationRequest,
    ModelInfo,
    TokenLogprob,
    Unsupported,
)
from wuya.inference.sampling import draw_seeds
from wuya.models.config import GPTConfig
from wuya.models.decoder import require_own
from wuya.tokenizer.bpe import Tokenizer

READABLE = {"F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "F32"}
"""Types of matrices its GGUF reader knows; F32 only for vectors, which `_readable` sees to."""
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
PRECISIONS: dict[str, Precision] = {"none": "float16", "int8": "q8_0"}


def load_openvino(
    alias: str,
    path: Path | str,
    *,
    slots: int,
    cache_bytes: int,
    prefix_bytes: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize = "none",
    max_context: int | None = None,
) -> "OpenVINOModel":
    """Read weights and tokenizer; the arguments are `LocalEngine`'s.

    `prefix_bytes` has no meaning of its own: finished keys and values stay in the one cache until it is full.
    With `dtype="float32"` arithmetic and cache are exact; else the library's choice (8-bit keys and values).
    Not for the main thread, which handles signals: freed models leave it a freed alternate signal stack (2026.4).
    """
    if device not in ("auto", "cpu") or dtype not in ("auto", "float32") or quantize not in PRECISIONS:
        raise ConfigError(
            "the OpenVINO engine runs on CPUs, in float32 or as the library likes it, with 16- or 8-bit weights",
            found=f"device {device}, dtype {dtype}, quantize {quantize}",
        )
    place = resolve_checkpoint(path)
    properties = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), **(EXACT if dtype == "float32" else {})}
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.enable_prefix_caching = slots, True
    scheduler.cache_size = max(1, cache_bytes >> 30)  # GiB
    with tempfile.TemporaryDirectory() as folder:
        if place.is_file() and quantize == "none" and _readable(place):
            (config, tokenizer), file = describe_gguf(place), place
            _require_family(config, place)
        else:
            if place.is_file() and quantize != "none":
                warn(f"`{place.name}` is expanded and quantised anew for `--quantize {quantize}`")
            loaded, tokenizer = load_checkpoint(place)
            model = require_own(loaded, "`--engine openvino`")
            config = model.config
            _require_family(config, place)
            file = Path(folder) / "model.gguf"
            save_gguf(file, model, tokenizer, precision=PRECISIONS[quantize])
            del model
        try:
            pipeline = genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", properties, {})
        except (RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"OpenVINO cannot read `{place}`",
                found=str(error).strip().splitlines()[-1],
                hint="serve it with torch: `--engine process`",
            ) from error
    files = weight_files(place) if place.is_dir() else [place]
    info = ModelInfo(
        alias=alias,
        context_length=min(max_context or config.context_length, config.context_length),
        fingerprint=fingerprint(files, tokenizer.fingerprint, f"openvino {version()} {dtype} {quantize}"),
        path=str(place),
        has_chat=bool(tokenizer.chat_template),
        has_tools=knows_tools(tokenizer.chat_template),
        has_embeddings=False,
        created=int(max(file.stat().st_mtime for file in files)),
    )
    return OpenVINOModel(info, pipeline, tokenizer, vocab_size=config.vocab_size, slots=slots)


def version() -> str:
    """Of the library."""
    return metadata.version("openvino-genai")


def _readable(file: Path) -> bool:
    from gguf import GGUFReader

    tensors = GGUFReader(file).tensors
    return all(t.tensor_type.name in READABLE and (t.tensor_type.name != "F32" or len(t.shape) < 2) for t in tensors)


def _require_family(config: GPTConfig, place: Path) -> None:
    family = hf_family(config)
    plain = config.rope_scaling is None and not config.local_layers
    plain = plain and not (family == "llama" and (config.attention_bias or config.mlp_bias))
    if family not in ("llama", "qwen2", "qwen3") or not plain:
        raise CheckpointError(
            "OpenVINO reads Llama (without biases), Qwen2 and Qwen3 from GGUF, none with rescaled rotary positions or "
            "sliding windows; others it refuses or gets wrong",
            found=f"{family} at `{place}`",
            hint="serve it with torch: `--engine process`",
        )


@dataclass(slots=True)
class Job:
    """One request and its completions."""

    request: GenerationRequest
    completions: list[Completion] = field(default_factory=list)


class OpenVINOModel:
    """Implements `hosting.Hosted`: each completion is a request of the pipeline."""

    def __init__(self, info: ModelInfo, pipeline: Any, tokenizer: Tokenizer, *, vocab_size: int, slots: int) -> None:
        self.info, self.tokenizer, self.vocab_size, self.slots = info, tokenizer, vocab_size, slots
        self.vocabulary = Vocabulary(tokenizer, vocab_size)
        self.accepted: set[str] = set()
        self.leaving = False
        self.cache_ratio = 0.0
        self._pipeline = pipeline
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Completion] = []
        self._running: dict[int, tuple[Completion, Any]] = {}
        self._events: list[Event] = []
        self._seeds = torch.Generator()
        self._seeds.seed()
        self._sequences = 0

    @property
    def jobs(self) -> Collection[str]:
        """Names of all that have not ended."""
        return self._jobs

    @property
    def busy(self) -> bool:
        """There is something to do; a cancelled request is forgotten by the pipeline's next step."""
        return bool(self._waiting or self._running or self._pipeline.has_non_finished_requests())

    @property
    def num_used(self) -> int:
        """Completions the pipeline has."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Jobs none of whose completions has begun."""
        return len(self.accepted)

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def check(self, request: GenerationRequest) -> None:
        """What the library has no place for is refused, never ignored."""
        params = request.params
        missing = {
            "logit_bias": bool(params.logit_bias),
            "response_format": params.json_schema is not None,
            "top_logprobs": bool(params.logprobs),
        }
        if asked := [name for name, is_asked in missing.items() if is_asked]:
            what = f"the OpenVINO engine does not know {', '.join(asked)}"
            raise Unsupported(what, param=asked[0], found=self.info.alias)
        self._config(request, 0)

    def compile_schema(self, schema: Mapping[str, Any]) -> Any:
        """Not here; `check` refused it."""
        what = "the OpenVINO engine does not know JSON schemas"
        raise Unsupported(what, param="response_format", found=self.info.alias)

    def add(self, request: GenerationRequest, grammar: Any = None) -> None:
        """Queue its completions."""
        job = self._jobs[request.job] = Job(request)
        self.accepted.add(request.job)
        params = request.params
        generator = self._seeds if params.seed is None else torch.Generator().manual_seed(params.seed % (1 << 63))
        for index, seed in enumerate(draw_seeds(params.n, generator).tolist()):
            self._sequences += 1
            completion = Completion(request.job, index, request.prompt_ids, params, self.vocabulary,
                                    sequence=self._sequences, seed=seed)  # fmt: skip
            job.completions.append(completion)
            self._waiting.append(completion)
        self._waiting.sort(key=lambda c: (self._jobs[c.job].request.priority, c.sequence))

    def cancel(self, name: str) -> None:
        """End a job wherever it is."""
        self.accepted.discard(name)
        if (job := self._jobs.get(name)) is None:
            return
        self._waiting = [completion for completion in self._waiting if completion.job != name]
        for completion in job.completions:
            if not completion.finished:
                self._leave(completion)
                self._events += completion.end("cancelled")
        self._end(job)

    def fail(self, code: str, message: str) -> None:
        """Every job ends in failure."""
        self._events += [Failed(name, code, message) for name in self._jobs]
        for completion, _ in list(self._running.values()):
            self._leave(completion)
        self._jobs, self._waiting = {}, []
        self.accepted.clear()

    def step(self) -> None:
        """Admit, one forward of the pipeline, tell what became known."""
        while self._waiting and len(self._running) < self.slots:
            self._start(self._waiting.pop(0))
        self._pipeline.step()
        self.cache_ratio = min(1.0, self._pipeline.get_metrics().cache_usage / 100)
        for completion, handle in list(self._running.values()):
            if handle.can_read():
                for output in handle.read().values():
                    self._tell(completion, output)
            elif handle.get_status() == genai.GenerationStatus.IGNORED:
                self._give_up(completion)

    def embed(self, ids: Sequence[int]) -> list[float]:
        """Not from this library."""
        raise Unsupported("the OpenVINO engine gives no embeddings", param="model", found=self.info.alias)

    def score(self, ids: Sequence[int], top: int) -> list[TokenLogprob]:
        """Not from this library."""
        raise Unsupported("the OpenVINO engine does not score given texts", param="echo", found=self.info.alias)

    # -- helpers

    def _start(self, completion: Completion) -> None:
        self.accepted.discard(completion.job)
        prompt = openvino.Tensor(np.array([completion.prompt], dtype=np.int64))
        config = self._config(self._jobs[completion.job].request, completion.seed)
        self._running[completion.sequence] = completion, self._pipeline.add_request(completion.sequence, prompt, config)

    def _config(self, request: GenerationRequest, seed: int) -> Any:
        params, config = request.params, genai.GenerationConfig()
        config.max_new_tokens = params.max_tokens
        config.ignore_eos = params.ignore_eos
        if not params.ignore_eos:
            config.stop_token_ids = set(self.vocabulary.stops)
        config.logprobs = 0 if params.logprobs is None else 1
        config.presence_penalty, config.frequency_penalty = params.presence_penalty, params.frequency_penalty
        config.repetition_penalty = params.repetition_penalty
        if params.temperature > 0:
            config.do_sample, config.rng_seed = True, seed % (1 << 63)
            config.temperature, config.top_p, config.min_p = params.temperature, params.top_p, params.min_p
            if params.top_k:
                config.top_k = params.top_k
        try:
            config.validate()
        except RuntimeError as error:
            what = str(error).strip().splitlines()[-1]
            raise Unsupported("the OpenVINO engine refuses these sampling parameters", found=what) from error
        return config

    def _tell(self, completion: Completion, output: Any) -> None:
        ids, ended = output.generated_ids, output.finish_reason != genai.GenerationFinishReason.NONE
        stops = () if completion.params.ignore_eos else self.vocabulary.stops
        for place, (token, logprob) in enumerate(zip(ids, output.generated_log_probs, strict=True)):
            if completion.params.logprobs is not None:
                completion.note(token, logprob)
            last = ended and place == len(ids) - 1
            self._events += completion.advance(token, finished=last, stopped=token in stops)
            if completion.finished:  # perhaps by a stop string, of which the pipeline knows nothing
                self._leave(completion)
                job = self._jobs[completion.job]
                if all(one.finished for one in job.completions):
                    self._end(job)
                return

    def _give_up(self, completion: Completion) -> None:
        """The pipeline has no memory for it, however long it waits."""
        name = completion.job
        self.cancel(name)
        self._events = [event for event in self._events if event.job != name]
        self._events.append(Failed(name, "internal_error", "no memory for the keys and values of this request"))

    def _leave(self, completion: Completion) -> None:
        _, handle = self._running.pop(completion.sequence, (None, None))
        if handle is not None:
            handle.cancel()

    def _end(self, job: Job) -> None:
        del self._jobs[job.request.job]
        tokens = sum(len(completion.ids) for completion in job.completions)
        self._events.append(Finished(job.request.job, len(job.request.prompt_ids), tokens))
