"""A second factor: six digits that an app on the phone shows (TOTP, RFC 6238: SHA-1, 30 seconds, 6 digits).

The secret is kept encrypted with the service's key, together with the last time step that was used: a code that
somebody read over a shoulder works no more. Whoever loses the phone gets a reset link from an admin, which switches
the factor off.
"""

import base64
import hashlib
import hmac
import json
import secrets
import struct
import time
from dataclasses import dataclass
from urllib.parse import quote

STEP_SECONDS = 30
DIGITS = 6
SKEW = 1
"""Steps that a phone's clock may be early or late."""
SECRET_BYTES = 20


@dataclass(frozen=True, slots=True)
class Factor:
    """One person's secret, and the last step whose code was used."""

    secret: bytes
    last_step: int = 0


def new_secret() -> str:
    """160 random bits, as authenticator apps read them (Base32)."""
    return base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode()


def read_secret(text: str) -> bytes | None:
    """The bytes of a secret; None if it is none of ours."""
    try:
        found = base64.b32decode(text.replace(" ", "").upper())
    except ValueError:
        return None
    return found if len(found) == SECRET_BYTES else None


def uri(secret: str, account: str) -> str:
    """What a phone opens: `otpauth://totp/...`."""
    return f"otpauth://totp/wuya:{quote(account)}?secret={secret}&issuer=wuya"


def code_at(secret: bytes, step: int) -> str:
    """The code of a time step (RFC 4226, section 5.3)."""
    digest = hmac.new(secret, struct.pack(">Q", step), hashlib.sha1).digest()
    start = digest[-1] & 15
    number = struct.unpack(">I", digest[start : start + 4])[0] & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def accepted(factor: Factor, code: str, *, at: float | None = None) -> Factor | None:
    """The factor with this code's step as the last one used; None if the code is wrong, too old, or was used before."""
    now = int((time.time() if at is None else at) // STEP_SECONDS)
    given = code.replace(" ", "").encode()
    for step in range(now - SKEW, now + SKEW + 1):
        if step > factor.last_step and hmac.compare_digest(code_at(factor.secret, step).encode(), given):
            return Factor(factor.secret, step)
    return None


def seal(factor: Factor, key: bytes) -> str:
    """Encrypted and authenticated, for the database: a pad from HMAC-SHA256 of a fresh nonce, and a tag over it all."""
    nonce = secrets.token_bytes(16)
    hidden = bytes(a ^ b for a, b in zip(factor.secret, _prf(key, b"totp pad", nonce), strict=False))
    body = {"n": nonce.hex(), "s": hidden.hex(), "step": factor.last_step}
    return json.dumps(body | {"tag": _tag(key, body)})


def unseal(sealed: str, key: bytes) -> Factor | None:
    """Inverse of `seal`; None if it was changed, or sealed with another key."""
    try:
        body = json.loads(sealed)
        tag = body.pop("tag")
        if not hmac.compare_digest(tag, _tag(key, body)):
            return None
        pad = _prf(key, b"totp pad", bytes.fromhex(body["n"]))
        return Factor(bytes(a ^ b for a, b in zip(bytes.fromhex(body["s"]), pad, strict=False)), body["step"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _prf(key: bytes, purpose: bytes, data: bytes) -> bytes:
    return hmac.new(key, purpose + b"\0" + data, hashlib.sha256).digest()


def _tag(key: bytes, body: dict[str, object]) -> str:
    return _prf(key, b"totp tag", json.dumps(body, sort_keys=True).encode()).hex()
