"""Tokens to batches: corpora, filters, de-duplication, mixtures, shards, batches, chat data formats."""
