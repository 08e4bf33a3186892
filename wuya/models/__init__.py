"""Batches to logits: one decoder from GPT-1 to Qwen3, its reward and value heads, and its checkpoints."""
