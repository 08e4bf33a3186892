"""`/v1`: the API that OpenAI's clients speak, its keys, limits and usage (docs/guides/api.md)."""
