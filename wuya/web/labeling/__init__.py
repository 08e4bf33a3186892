"""Labeling: the screens and the API with which people rank, write, compare and describe (web.md, L1 to L6 and D3)."""
