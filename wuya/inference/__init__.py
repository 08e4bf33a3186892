"""Model to text: sampling, KV cache, scheduler, engine, rollouts."""
