"""Batches to logits: one decoder from GPT-1 to the modern line, reward and value heads, checkpoints."""
