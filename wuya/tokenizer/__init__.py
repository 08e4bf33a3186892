"""Raw text to token ids and back: byte-level BPE, and the format chats are written in."""
