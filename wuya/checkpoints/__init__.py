"""Folders to models and back: our checkpoints, Hugging Face folders, GGUF files, LoRA adapters, and their checksums."""
