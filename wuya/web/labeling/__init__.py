"""Labeling: the screens and the API with which people rank, write, compare and describe."""
