"""Model to text: sampling, KV cache, scheduler, engine, and the backends that serve it."""
