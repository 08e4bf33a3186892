"""The tokenizer and the model of the recipes' tests, for the studies that train."""

from tests.recipes.conftest import tiny_model, tokenizer  # noqa: F401  # fixtures
