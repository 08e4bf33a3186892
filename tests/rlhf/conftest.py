"""What the tests of rollouts and updates share."""

import pytest

from tests.inference.naive import sharp_model
from wuya.models.gpt import GPT


@pytest.fixture(scope="module")
def model() -> GPT:
    return sharp_model()
