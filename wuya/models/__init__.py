"""Batches to logits: one decoder from GPT-1 to Qwen3, any other of `transformers`, their heads and LoRA adapters."""
