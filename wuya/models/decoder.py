"""A language model that recipes train and engines run: our own decoder, or any other one of `transformers`."""

from wuya.errors import UnsupportedModel
from wuya.models.gpt import GPT
from wuya.models.wrapped import TransformersModel

Decoder = GPT | TransformersModel
"""Both give hidden states and logits, and take packed rows and a cache, in the same way."""


def require_own(model: Decoder, what: str) -> GPT:
    """The model if it runs on our decoder; refuses a wrapped one, naming what needs it."""
    if isinstance(model, GPT):
        return model
    raise UnsupportedModel(
        f"{what} works with the families of wuya's own decoder only",
        found=f"`{model.config.family}`, which runs through transformers",
        hint="docs/guides/other-models.md lists what works with such models",
    )
