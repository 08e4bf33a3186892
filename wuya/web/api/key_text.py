"""API keys: `sk-<prefix>-<secret>`, of which only a SHA-256 is kept."""

import hashlib
import re
import secrets

PREFIX_LENGTH = 8
_KEY = re.compile(r"sk-([a-z0-9]{8})-([A-Za-z0-9_-]{43})")


def new_key() -> tuple[str, str]:
    """A key that nobody has seen, and the prefix by which people tell it from others."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    prefix = "".join(secrets.choice(alphabet) for _ in range(PREFIX_LENGTH))
    return f"sk-{prefix}-{secrets.token_urlsafe(32)}", prefix


def sha256_of(key: str) -> str:
    """What the database keeps. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def looks_like_ours(key: str) -> bool:
    """Whether a text has the form of a key of this service."""
    return _KEY.fullmatch(key) is not None
