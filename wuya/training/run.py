"""A run folder: one process at a time, metrics and samples as lines, checkpoints whole or absent, exact resume.

    with Run(config.out, config, resume=config.resume, verb="pretrain") as run:
        first, state = run.load_state() or (0, None)
        for step in range(first, num_steps):
            ...                                                     # one update
            run.require_finite(step + 1, loss=loss, grad_norm=grad_norm)
            run.log(step + 1, {"loss": loss})
            if run.save_is_due(step + 1, every=config.save_every, last=num_steps):
                run.save(step + 1, save_model, {"optimizer": optimizer.state_dict()})
        run.finish()

A step is the number of finished updates. `<out>/checkpoints/step_000200/` is a model folder plus `resume/state.pt`
(tensors and primitives, loaded with `weights_only=True`), and the SHA-256 of each of its files. `--resume` compares
them, and goes on from the newest checkpoint that is whole. After Ctrl-C or SIGTERM `save_is_due` is true, and `save`
then raises `Interrupted` with the line that goes on. Only rank 0 writes.
"""

import json
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from wuya.checkpoints.checksums import newest_whole, require_whole, write_checksums
from wuya.config import save_config, to_dict
from wuya.console import say, warn
from wuya.errors import CheckpointError, ConfigError, DataError, Interrupted, NotFinite, RunError
from wuya.files import FileLock, append_jsonl, atomic_folder, make_folder, read_jsonl, to_json, write_atomic
from wuya.training import distributed
from wuya.training.inputs import Inputs, inputs_of, record_inputs, require_same_inputs, write_inputs
from wuya.training.kernels import kernel_choices, restore_rng, rng_state
from wuya.training.metrics import METRICS, Metric
from wuya.training.report import write_report

FREE_FIELDS = frozenset({"resume", "out", "json", "save_every", "keep_last_n", "log_every", "tensorboard"})
"""Config fields that may differ on resume: they do not touch the numbers."""
MEMORY_FIELDS = frozenset({"microbatch_size", "microbatch_tokens", "activation_checkpointing", "max_batch_size"})
"""Fields that may differ too, so that a run that ran out of memory resumes with less: only rounding follows them."""


class Run:
    """The resources of one training run; see the module's docstring for how a recipe uses it."""

    def __init__(
        self,
        out: Path,
        config: object,
        *,
        resume: bool = False,
        verb: str = "",
        keep_last_n: int = 2,
        metrics: Mapping[str, Metric] | None = None,
        kernels: Mapping[str, str] | None = None,
        tensorboard: bool = False,
    ) -> None:
        """Nothing is touched before the `with` block.

        Args:
            out: the run folder.
            config: the recipe's frozen dataclass; written to config.yaml before step 0, compared on resume.
            verb: the command that started the run, for the line that goes on.
            keep_last_n: newest checkpoints to keep; 0 keeps all.
            metrics: what is logged beside `METRICS`, documented for the report.
            kernels: choices of kernels made by the recipe; stored with the run and compared on resume, beside ours.
            tensorboard: also write TensorBoard files into `<out>/tensorboard`.
        """
        self.out = Path(out)
        self.config = config
        self.resume = resume
        self.verb = verb
        self.keep_last_n = keep_last_n
        self.metrics = {**METRICS, **(metrics or {})}
        self.kernels = {**kernel_choices(), **(kernels or {})}
        self.interrupted = False
        self.chosen_step: int | None = None
        """Step whose checkpoint ships in place of the newest, and is never dropped; see training/early_choice.py."""
        self.inputs: Inputs = {}
        self._tensorboard_wanted = tensorboard
        self._tensorboard: Any = None
        self._stack = ExitStack()

    # -- start and end -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            with distributed.only_main(f"prepare `{self.out}`") as main:
                if main:
                    make_folder(self.out)
                    stack.enter_context(FileLock(self.out / ".lock"))
                    self._prepare_folder()
                    if self._tensorboard_wanted:
                        self._tensorboard = _tensorboard_writer(self.out / "tensorboard")
                        stack.callback(self._tensorboard.close)
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.callback(*_replace_handler(number, self._on_signal))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _prepare_folder(self) -> None:
        _clean_leftovers(self.checkpoints)
        config_file = self.out / "config.yaml"
        latest = self.latest_checkpoint()
        if self.resume and config_file.exists():
            self._require_same_config(config_file)
            latest = newest_whole(self.out, self._all_checkpoints())
        elif latest is not None:
            raise ConfigError(
                f"`{self.out}` already holds a run",
                found=latest.name,
                hint=f"go on with it: `{self.resume_command()}`; or start another: `--out {self.out}-2`",
            )
        self.inputs = inputs_of(self.config)
        if self.resume and latest is None:
            say(f"nothing to resume in `{self.out}` yet: starting from the beginning")
        elif latest is not None:
            require_same_inputs(self.out, self.inputs, start_anew=f"another `--out`, `{self.out}-2`")
        write_inputs(self.out, self.inputs)
        save_config(self.config, config_file)
        step = 0 if latest is None else step_of(latest)
        for name in ("metrics.jsonl", "samples.jsonl"):
            truncate_rows(self.out / name, step if latest is not None else -1)

    def _all_checkpoints(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step_*"), key=step_of)

    def _require_same_config(self, config_file: Path) -> None:
        import yaml

        stored = yaml.safe_load(config_file.read_text(encoding="utf-8")) or {}
        current = json.loads(to_json(to_dict(self.config)))
        differing = [
            f"{key}: {stored.get(key)!r} -> {current.get(key)!r}"
            for key in dict.fromkeys([*stored, *current])
            if key not in FREE_FIELDS and stored.get(key) != current.get(key)
        ]
        rounding = [text for text in differing if text.partition(":")[0] in MEMORY_FIELDS]
        if rounding:
            warn(f"resumed numbers may differ in the last digits: {'; '.join(rounding)}")
        differing = [text for text in differing if text not in rounding]
        if differing:
            raise ConfigError(
                f"`{self.out}` was started with other settings, so it can't be resumed with these",
                found="; ".join(differing),
                hint=f"go on with its own: `{self.resume_command()}`; or start anew with another `--out`",
            )

    def resume_command(self) -> str:
        """The line that goes on with this run, ready to paste."""
        verb = f"{self.verb} " if self.verb else ""
        return f"wuya {verb}--config {shlex.quote(str(self.out / 'config.yaml'))} --resume"

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:  # the second time: at once
            raise KeyboardInterrupt
        self.interrupted = True
        print("\nstopping after this step and saving (once more: stop at once)", file=sys.stderr)  # noqa: T201

    # -- lines -------------------------------------------------------------------------------------------------------

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Add a row of metrics, those that the run was opened with."""
        if not distributed.is_main():
            return
        append_jsonl(self.out / "metrics.jsonl", {"step": step, "time": round(time.time(), 3), **values})
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(name, value, step)

    def sample(self, step: int, rows: Iterable[Mapping[str, object]]) -> None:
        """Add rows of text to look at: prompt, completion and what is known about them."""
        if distributed.is_main():
            for row in rows:
                append_jsonl(self.out / "samples.jsonl", {"step": step, **row})

    def require_finite(self, step: int, **values: float) -> None:
        """Stop the run when a loss or gradient norm is NaN or infinite, before it reaches a checkpoint."""
        bad = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        latest = self.latest_checkpoint()
        kept = f"the last good checkpoint is `{latest}`" if latest else "no checkpoint had been saved yet"
        raise NotFinite(
            f"training diverged at step {step}",
            found=", ".join(bad),
            hint=f"{kept}; start again in another `--out` with a lower learning rate, more warmup or clipping",
        )

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """The folder of this run's checkpoints."""
        return self.out / "checkpoints"

    def checkpoint_of(self, step: int) -> Path:
        """The folder of the checkpoint after `step` updates."""
        return self.checkpoints / f"step_{step:06d}"

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint; every folder under a final name was written as a whole."""
        found = self._all_checkpoints()
        return found[-1] if found else None

    def save_is_due(self, step: int, *, every: int, last: int) -> bool:
        """Whether to save after `step` updates: every so often, at the end, and when someone asked the run to stop."""
        self.interrupted = distributed.any_rank(self.interrupted)
        return self.interrupted or is_due(step, every, last)

    def save(self, step: int, save_model: Callable[[Path], object], state: Mapping[str, Any]) -> Path:
        """Write `checkpoints/step_<step>` as a whole, drop old ones, and leave if an interruption is pending.

        Args:
            save_model: writes the model folder at the path it is given.
            state: what a resumed run needs beside the model: tensors and primitives. RNG states and kernels are added.
        """
        folder = self.checkpoint_of(step)
        rng = distributed.gather(rng_state())
        with distributed.only_main(f"save `{folder}`") as main:
            if main:
                with atomic_folder(folder) as temporary:
                    save_model(temporary)
                    record_inputs(temporary / "wuya.json", self.inputs)
                    make_folder(temporary / "resume")
                    full = {"step": step, "kernels": self.kernels, "rng": rng, "state": dict(state)}
                    _torch_save(full, temporary / "resume" / "state.pt")
                    write_checksums(temporary, changed=("wuya.json",))
                self._drop_old()
        if self.interrupted:
            raise Interrupted(
                f"stopped after step {step}, saved in `{folder}`", hint=f"go on: `{self.resume_command()}`"
            )
        return folder

    def load_state(self, *, map_location: str | torch.device = "cpu") -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint's step and state, with `state["model_folder"]` its path; None: nothing to resume.

        Restores the random number generators, and warns by name about kernels that differ: then the numbers may too.
        """
        latest = self.latest_checkpoint() if self.resume else None
        if latest is None:
            return None
        path = latest / "resume" / "state.pt"
        try:
            full = torch.load(path, weights_only=True, map_location=map_location)
        except FileNotFoundError:
            raise CheckpointError(
                f"`{latest}` holds a model but nothing to resume from: `resume/state.pt` is missing",
                hint=f"start a new run from it, or remove it to resume from the one before: `rm -r {latest}`",
            ) from None
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointError(f"cannot read `{path}`: {error}", hint=f"remove it: `rm -r {latest}`") from error
        stored = full["kernels"]
        differing = [f"{k}: {stored.get(k)} -> {v}" for k, v in self.kernels.items() if stored.get(k) != v]
        if differing:
            warn(f"resumed numbers may differ in the last digits, the machine does: {'; '.join(differing)}")
        if distributed.rank() < len(full["rng"]):
            restore_rng(full["rng"][distributed.rank()])
        state: dict[str, Any] = full["state"]
        state["model_folder"] = str(latest)
        say(f"resuming `{self.out}` after step {full['step']:,}")
        return int(full["step"]), state

    def finish(self) -> Path:
        """Make the model of the newest or the chosen checkpoint available as `<out>/model` (hard links, no copy), and
        write report.html."""
        model = self.out / "model"
        with distributed.only_main(f"finish `{self.out}`") as main:
            if main:
                latest = self.latest_checkpoint()
                assert latest is not None, "finish() comes after the last save()"
                if self.chosen_step is not None:
                    latest = self.checkpoint_of(self.chosen_step)
                    require_whole(latest)
                with atomic_folder(model) as temporary:
                    without_resume = shutil.ignore_patterns("resume")
                    shutil.copytree(latest, temporary, copy_function=_link, ignore=without_resume, dirs_exist_ok=True)
                    write_checksums(temporary)
                write_report(self.out, self.metrics)
        return model

    def _drop_old(self) -> None:
        if self.keep_last_n <= 0:
            return
        for old in self._all_checkpoints()[: -self.keep_last_n]:
            if step_of(old) == self.chosen_step:
                continue
            retired = old.with_name(f".{old.name}.dropped")
            old.rename(retired)  # first out of sight: a kill in the middle leaves no half checkpoint under a final name
            shutil.rmtree(retired, ignore_errors=True)


def is_due(step: int, every: int, last: int) -> bool:
    """Every so often (never for 0), and after the last update."""
    return step == last or (every > 0 and step % every == 0)


def step_of(checkpoint: Path) -> int:
    """The number in `step_000200`; -1 for other names."""
    digits = checkpoint.name.removeprefix("step_")
    return int(digits) if digits.isdigit() else -1


def truncate_rows(path: Path, last_step: int) -> None:
    """Drop the rows after `last_step` (-1: all) and a last half row, as if the run had stopped there."""
    if not path.exists():
        return
    if last_step < 0:
        path.unlink()
        return
    kept = []
    try:
        for _, row in read_jsonl(path):
            if row["step"] <= last_step:
                kept.append(to_json(row) + "\n")
    except DataError:  # the row that was being written when the process was killed; nothing comes after it
        pass
    write_atomic(path, "".join(kept))


def _clean_leftovers(checkpoints: Path) -> None:
    """Remove what a killed process left under temporary names; the lock is ours, so nobody is writing them."""
    for leftover in checkpoints.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
    return target


def _torch_save(value: object, path: Path) -> None:
    _require_plain(value)
    try:
        torch.save(value, path)
    except RuntimeError as error:  # torch's zip writer hides the reason of a failed write
        free = shutil.disk_usage(path.parent).free
        raise RunError(
            f"cannot write `{path}`: {str(error).splitlines()[0]}",
            found=f"{free / 2**20:,.0f} MiB free",
            hint="free some space and go on with `--resume`; the checkpoint before is intact",
        ) from error


def _require_plain(value: object, where: str = "state") -> None:
    """`weights_only=True` would refuse anything else on resume: find out while saving."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    else:
        plain = (torch.Tensor, str, bytes, int, float, bool, type(None))
        assert type(value) in plain or isinstance(value, torch.Tensor), f"{where} is a {type(value).__name__}"


def _replace_handler(number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> tuple[Any, ...]:
    """Install a handler and return (function, arguments) that put the old one back; nothing outside the main thread."""
    try:
        old = signal.signal(number, handler)
    except ValueError:
        return (lambda: None,)
    return signal.signal, number, old


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "`tensorboard=true`, but the package is missing", hint="install it: `pip install tensorboard`"
        ) from error
    return SummaryWriter(str(folder))
