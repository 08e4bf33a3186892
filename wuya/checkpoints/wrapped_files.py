"""Checkpoint folders of models that run through `transformers`: read, refuse in words, write so that it loads there.

Weights are safetensors only, nothing is downloaded, and no Python code in a folder is ever run: an architecture that
`transformers` does not know itself is refused. A reward model is written as the `ForSequenceClassification` class of
its architecture; where there is none its trunk is written with `score.safetensors` beside it, which loads here only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wuya.checkpoints.hf_fields import ignored_by
from wuya.checkpoints.hf_folder import read_config, weight_files
from wuya.console import warn
from wuya.errors import CheckpointError, UnsupportedModel
from wuya.files import to_json, write_atomic
from wuya.models.wrapped import TransformersModel

HEAD = "score.safetensors"
OWN_CLASS = "WuyaForSequenceClassification"
OWN_CODE = (
    "its own Python code is never run, for it could read all that this process can: accounts, keys, chats. A newer "
    "transformers may know the architecture: `pip install --upgrade transformers`. To chat with it and label its "
    "answers, let a server that runs its code host it: `wuya serve --models NAME --upstream http://127.0.0.1:8080/v1`"
)
BUFFERS = ("inv_freq", "position_ids", "masked_bias", "attn.bias", "attention.bias")
"""Ends of names in old files that hold no weights."""

THEIRS = (ValueError, KeyError, ImportError, TypeError, AttributeError, IndexError, ArithmeticError)
"""What the classes of transformers raise where config.json holds a wrong value."""


def load_wrapped(
    folder: Path, refused: UnsupportedModel, *, device: str | torch.device, dtype: torch.dtype
) -> TransformersModel:
    """The language model of a folder that our decoder refused, on its own code.

    Raises UnsupportedModel where transformers is missing or does not know the architecture either.
    """
    inner = _read(folder, "AutoModelForCausalLM", str(refused), dtype=dtype).to(device)
    with _quiet():
        return TransformersModel(inner)


def load_wrapped_scalar(
    folder: Path, refused: UnsupportedModel, *, device: str | torch.device, dtype: torch.dtype
) -> tuple[TransformersModel, Tensor]:
    """Trunk and head [1, D] of a reward model that our decoder refused."""
    if OWN_CLASS in (read_config(folder).get("architectures") or ()):
        inner = _read(folder, "AutoModel", str(refused), dtype=dtype).to(device)
        head_1D = load_file(folder / HEAD)["score.weight"]
    else:
        whole = _read(folder, "AutoModelForSequenceClassification", str(refused), dtype=dtype).to(device)
        if not _is_linear_score(whole, outputs=1):
            raise UnsupportedModel(
                f"`{folder}` is not a decoder with one linear score at its last token",
                found=f"{type(whole).__name__} with {whole.config.num_labels} labels",
                hint="it can still be a reward, scored through its own tokenizer: `--reward_model FOLDER`",
            )
        inner, head_1D = whole.base_model, whole.score.weight.detach()
    with _quiet():
        return TransformersModel(inner), head_1D.to(device=device, dtype=dtype)


def write_wrapped(folder: Path, model: TransformersModel) -> None:
    """config.json and weights of a language model, as transformers writes them."""
    with _quiet():
        model.inner.save_pretrained(folder)  # type: ignore[operator]


def write_wrapped_scalar(folder: Path, trunk: TransformersModel, head_1D: Tensor, *, pad_id: int) -> None:
    """config.json and weights of a reward model."""
    inner: Any = trunk.trunk
    with _quiet():
        whole = _classifier(inner, head_1D, pad_id)
        if whole is not None:
            whole.save_pretrained(folder)
            return
        inner.save_pretrained(folder)
    config = read_config(folder) | {"architectures": [OWN_CLASS]}
    write_atomic(folder / "config.json", to_json(config, indent=2) + "\n")
    save_file({"score.weight": head_1D.detach().cpu().contiguous()}, folder / HEAD, metadata={"format": "pt"})


def _classifier(trunk: Any, head_1D: Tensor, pad_id: int) -> Any:
    """The architecture's sequence classifier on these weights; None where it has none that scores as we do."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(**{**trunk.config.to_dict(), "num_labels": 1, "pad_token_id": pad_id})
    try:
        with torch.device("meta"):
            whole = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return None
    if not _is_linear_score(whole, outputs=1):
        return None
    state = {f"{whole.base_model_prefix}.{name}": tensor.detach() for name, tensor in trunk.state_dict().items()}
    state["score.weight"] = head_1D.detach()
    if set(state) != set(whole.state_dict()):
        return None
    whole.load_state_dict(state, assign=True)
    return whole


def _is_linear_score(whole: Any, *, outputs: int) -> bool:
    """Whether a classifier's head is one matrix without bias."""
    score = getattr(whole, "score", None)
    return type(score) is nn.Linear and {name: tuple(p.shape)[:1] for name, p in score.named_parameters()} == {
        "weight": (outputs,)
    }


def read_classifier(folder: Path, *, dtype: torch.dtype | Literal["auto"] = torch.float32) -> Any:
    """A sequence classifier as transformers runs it: a published reward model, encoder or decoder.

    Args:
        dtype: of the weights; `auto`: as they were published.
    """
    return _read(folder, "AutoModelForSequenceClassification", "it is no reward model of wuya's", dtype=dtype)


def _read(folder: Path, auto: str, refused: str, *, dtype: torch.dtype | Literal["auto"]) -> Any:
    """A model of one of transformers' Auto classes, every tensor of which comes from the folder.

    Args:
        refused: why our own decoder does not run it.
    """
    weight_files(folder)  # refuses pickles and missing shards
    if method := (read_config(folder).get("quantization_config") or {}).get("quant_method"):
        raise CheckpointError(
            f"the weights in `{folder}` are quantised",
            found=f"quant_method {method!r}",
            hint="use the checkpoint they were made from, in float32, bfloat16 or float16",
        )
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedModel(
            f"`{folder}` needs the package transformers: wuya's own decoder does not run it",
            found=refused.splitlines()[0],
            hint="install it: `pip install 'wuya[hf]'`",
        ) from error
    with _quiet():
        try:
            model, report = getattr(transformers, auto).from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False,
                output_loading_info=True, config=_their_config(folder),
            )  # fmt: skip
        except THEIRS as error:
            own_code = "auto_map" in read_config(folder)
            raise UnsupportedModel(
                f"neither wuya's decoder nor transformers {transformers.__version__} runs the model in `{folder}`",
                found=f"{refused.splitlines()[0]}; transformers: {str(error).splitlines()[0][:160]}",
                hint=OWN_CODE if own_code else "",
            ) from error
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(
                f"the weights in `{folder}` cannot be read", found=str(error)[:200], hint="copy the folder again"
            ) from error
    if ignored := ignored_by(type(model.config), read_config(folder)):
        names = ", ".join(f"`{key}`" for key in ignored[:5])
        warn(
            f"transformers ignores {names} in the config.json of `{folder}`: "
            "if the program that trained the model read it, the outputs here are wrong"
        )
    missing = sorted(report["missing_keys"])
    wrong = sorted(str(item) for item in report["mismatched_keys"])
    extra = sorted(name for name in report["unexpected_keys"] if not name.endswith(BUFFERS))
    if missing or wrong or extra:
        raise CheckpointError(
            f"the tensors in `{folder}` are not those of its architecture, {read_config(folder).get('model_type')}",
            found="; ".join(f"{kind} {', '.join(names[:3])}" for kind, names in
                            (("missing", missing), ("of other shapes", wrong), ("without a place", extra)) if names),
            hint="copy the folder again, or convert it with the tool that wrote it",
        )  # fmt: skip
    return model


def _their_config(folder: Path) -> Any:
    """config.json without `problem_type`: it names a loss, and where it contradicts the labels nothing would load."""
    import transformers

    config = read_config(folder)
    try:
        if "problem_type" in config:
            del config["problem_type"]
            return transformers.AutoConfig.for_model(**config)
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except THEIRS:
        raise  # the caller knows what to do
    except Exception as error:  # their classes check some fields with errors of their own
        raise CheckpointError(
            f"transformers cannot read `{folder / 'config.json'}`", found=f"{type(error).__name__}: {str(error)[:200]}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own progress bars and advice: what matters is an error of ours."""
    from transformers.utils import logging as their_logging

    logging: Any = their_logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
