"""Passwords: argon2id, two at a time (a hash takes 64 MiB), and the few rules that help."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from wuya.web.errors import ApiError

MIN_LENGTH, MAX_LENGTH = 10, 256
COMMONEST = frozenset(
    "password password1 password12 password123 passw0rd123 1234567890 12345678910 123456789012 0123456789 qwertyuiop "
    "qwerty12345 qwerty123456 1q2w3e4r5t 1qaz2wsx3edc iloveyou12 administrator changeme123 letmein1234 welcome1234 "
    "princess123 sunshine123 football123 baseball123 superman123 trustno1234 abcdefghij abcd123456 a123456789 "
    "aa12345678 zxcvbnm123 asdfghjkl1 asdfghjkl123 11111111111 0000000000 1111111111 9876543210 987654321".split()
)
"""The commonest passwords of at least ten characters: what guessing starts with."""

_hasher = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=2, type=Type.ID)
_two_at_a_time = threading.BoundedSemaphore(2)
_waiting = threading.BoundedSemaphore(8)
"""Requests that hash or wait to: the rest of the server's threads stay free for everything else."""
_of_nobody: list[str] = []


def check_new(password: str, *, email: str = "") -> None:
    """Refuse what would be guessed first. No rules about digits and signs: they make passwords worse."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        message = f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters"
        raise ApiError(422, "weak_password", message, param="password")
    plain = password.lower()
    names = {email.lower(), email.lower().partition("@")[0]} - {""}
    if plain in COMMONEST or plain in names or len(set(plain)) < 4:
        message = "this password is among the first that anybody would try"
        raise ApiError(422, "weak_password", message, param="password")


def hash_password(password: str) -> str:
    """What is kept of a password. Raises: ApiError 503 when too many requests wait for a hash."""
    with _turn():
        return _hasher.hash(password)


def matches(password_hash: str | None, password: str) -> bool:
    """Whether it is the password; takes as long for people who do not exist. Raises: ApiError 503 as above."""
    if len(password) > MAX_LENGTH:
        password = ""
    with _turn():
        if not _of_nobody:
            _of_nobody.append(_hasher.hash("of nobody"))
        try:
            return _hasher.verify(password_hash or _of_nobody[0], password) and password_hash is not None
        except (VerificationError, InvalidHashError):
            return False


@contextmanager
def _turn() -> Iterator[None]:
    """One of two hashes at a time; a request that would be the ninth in line is turned away at once."""
    if not _waiting.acquire(blocking=False):
        raise ApiError(503, "busy", "too many people are signing in right now; try again in a moment", retry_after=2)
    try:
        with _two_at_a_time:
            yield
    finally:
        _waiting.release()
