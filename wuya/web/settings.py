"""What a running service was told: frozen, passed in, never read from globals."""

from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FORWARDED = frozenset(
    "forwarded forwarded-for via x-real-ip x-client-ip x-cluster-client-ip x-host x-scheme x-rewrite-url "
    "x-request-start x-arr-ssl x-envoy-external-address x-appengine-user-ip x-azure-clientip true-client-ip "
    "fastly-client-ip fly-client-ip cf-connecting-ip cf-ray cdn-loop x-amzn-trace-id".split()
)
FORWARDED_PREFIXES = ("x-forwarded", "x-original-")
"""Headers (and beginnings of their names) that only a reverse proxy adds: the request began on another machine."""
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcSettings:
    """An OpenID provider through which people may sign in."""

    issuer: str
    """As the provider's discovery document spells it: "https://accounts.google.com"."""
    client_id: str
    """The name that the provider gave this service."""
    client_secret: str = field(default="", repr=False)
    """What proves it; empty: a public client, with PKCE alone."""
    name: str = "OIDC"
    """On the button: "Sign in with ..."."""
    domains: tuple[str, ...] = ()
    """If any: only verified addresses of these domains, which then need no invitation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the web process needs to know, derived from `ServeConfig` or set by a test."""

    workspace: Path
    """Folder with runs/, models/ and the service's key file."""
    host: str = "127.0.0.1"
    """Address that the server listens on."""
    port: int = 8000
    """Its port."""
    accounts: bool = False
    """True: people sign in. False: one user, on this machine only, without a password."""
    open_to_everyone: bool = False
    """Without accounts: requests that came through a reverse proxy are answered too."""
    https: bool = False
    """True where a proxy in front speaks HTTPS: cookies are Secure and browsers are told to insist on it."""
    public_url: str = ""
    """Where browsers find the service, if not at its own address: "https://chat.example.org/wuya"."""
    root_path: str = ""
    """Path prefix under which a reverse proxy shows the service, without a slash at the end: "/wuya"."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may ask for besides loopback; "*" allows any."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call `/v1` with a bearer key. None by default."""
    metrics_token: str = ""
    """Bearer token for `/metrics` from other machines; empty: from this machine only."""
    secret: bytes = field(default=b"wuya-test-secret-of-32-bytes----", repr=False)
    """Key of the HMACs (author hashes, audit chain)."""
    max_body_bytes: int = 1 << 20
    """Largest request body."""
    max_import_bytes: int = 64 << 20
    """Largest body of the import endpoints."""
    body_seconds: float = 60.0
    """Longest time that a request's body may take to arrive; imports ten times as long."""
    job_seconds: float = 600.0
    """Longest time that a chat's answer may take."""
    oidc: OidcSettings | None = None
    """Sign-in through an OpenID provider, beside passwords."""
    default_model: str = ""
    """Alias that new chats use; empty: the engine's first."""

    @property
    def host_names(self) -> tuple[str, ...]:
        """Every host name that a request may carry."""
        return LOOPBACK_NAMES + self.allowed_hosts
