"""wuya: an open ChatGPT you can own end to end, from raw text to a model aligned with people's rankings."""

__version__ = "0.1.0"
