"""`wuya serve`: the chat app, the labeling and runs pages and the `/v1` API on a checkpoint (docs/guides/serve.md).

    wuya serve                                  # the demo's policy, for you alone, on this machine
    wuya serve runs/ppo sft=runs/sft            # two models, `ppo` and `sft`
    wuya serve --accounts                       # people sign in; prints a setup link that works once
    wuya serve --check                          # is everything there and sound? starts nothing
    wuya serve --backup wuya.db.copy            # a copy of the database, also while a server runs

Reads checkpoints and <workspace>/wuya.db; writes only the latter, its key file and journals of answers in progress.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from wuya.config import require_positive
from wuya.console import say, warn
from wuya.database.connection import check_pages, open_engine, reading, writing
from wuya.errors import ConfigError, RunError
from wuya.files import FileLock, default_workspace, make_private, open_to_others, write_errors
from wuya.web import audit
from wuya.web.accounts.flows import setup_link
from wuya.web.accounts.oidc import CALLBACK
from wuya.web.accounts.provider import check_installed, is_safe_url
from wuya.web.app import create_app
from wuya.web.connections import Door, guarded, raise_descriptor_limit
from wuya.web.engines import named_models, open_model_engine
from wuya.web.operations.backup import backup
from wuya.web.operations.check import check
from wuya.web.operations.logs import set_up_logs
from wuya.web.secret import NAME, has_secret, service_secret
from wuya.web.service import Service
from wuya.web.settings import LOOPBACK, OidcSettings, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Serve checkpoints: a chat app, labeling and runs pages, and an API that OpenAI's clients speak."""

    POSITIONAL: ClassVar[str] = "models"

    models: tuple[str, ...] = ()
    """Checkpoints, as PATH or NAME=PATH: run folders, Hugging Face folders, .gguf files, `smollm2`. None: those
    promoted in the registry, else the policy and the SFT model of the workspace's newest demo."""
    workspace: Path | None = None
    """Holds wuya.db, runs/ and the service's key file; default: $WUYA_WORKSPACE, or ./workspace."""
    database: str = ""
    """URL of the database: `postgresql+psycopg://user@host/wuya`. Empty: <workspace>/wuya.db."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but this machine's own needs `--accounts` and an HTTPS `--public_url`, or
    `--open_to_everyone`."""
    port: int = 8000
    """Port to listen on."""
    accounts: bool = False
    """People sign in. Without it there is one user, you, on this machine only."""
    open_to_everyone: bool = False
    """Let everyone who can reach the address use the service as its one user, the admin, without signing in: they read
    all chats, download backups and use `/v1`. Only for a network you trust."""
    public_url: str = ""
    """Where browsers find the service behind a reverse proxy: `https://chat.example.org/wuya`. Needs `--accounts`."""
    proxies: str = "127.0.0.1"
    """Addresses or networks of the reverse proxy whose X-Forwarded headers are believed, with commas; only with
    `--public_url`."""
    oidc_issuer: str = ""
    """OpenID provider through which people may also sign in: `https://accounts.google.com`. Needs `--accounts`."""
    oidc_client: str = ""
    """The client id that the provider gave this service; its secret is read from $WUYA_OIDC_SECRET."""
    oidc_domains: tuple[str, ...] = ()
    """Only verified addresses of these domains come in through the provider, and need no invitation: `example.org`."""
    oidc_name: str = "OIDC"
    """Name on the button: `Sign in with OIDC`."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call `/v1` with a key."""
    engine: Literal["process", "thread", "openvino", "fake"] = "process"
    """Where the model runs: in its own process, in a thread of this one, in its own process on OpenVINO GenAI (CPUs;
    `pip install 'wuya[openvino]'`), or nowhere: `fake` makes words up."""
    upstream: str = ""
    """Base URL of an OpenAI-compatible server that runs the models instead: `http://127.0.0.1:8080/v1`. `models` then
    names which of its models to offer; none: all."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """Weights in fewer bits: less memory, a little less exact; int8 is about as fast as float32 on a CPU."""
    device: str = "auto"
    """auto, cpu, cuda."""
    slots: int = 16
    """Answers of one model that are written at the same time; more wait in a queue."""
    context_length: int = 0
    """Cut the models' contexts to so many tokens, to save memory; 0 does not."""
    new_key: bool = False
    """Start with a new service key though the old one is lost: second factors end, the audit log notes it."""
    log_level: Literal["debug", "info", "warning"] = "info"
    """Logs are JSON lines on stderr; they never hold what people write."""
    check: bool = False
    """Check checkpoints, database, key file, audit log and settings, print the findings, and stop."""
    backup: Path | None = None
    """Copy the database to this file, and stop."""

    def __post_init__(self) -> None:
        require_positive(self, "port", "slots")
        if self.public_url and not urlsplit(self.public_url).netloc:
            raise ConfigError("can't read `--public_url`", found=self.public_url, hint="https://chat.example.org/wuya")
        self._check_proxies()
        self._check_oidc()
        self._check_strangers()

    def _check_proxies(self) -> None:
        """Whoever is believed may say that they are anyone: addresses, and no wildcard for all of them."""
        for text in self.proxies.split(","):
            try:
                network = ip_network(text.strip())
            except ValueError:
                hint = "the proxy's addresses or networks, with commas: `--proxies 127.0.0.1,10.0.0.0/24`"
                raise ConfigError("can't read `--proxies`", found=text.strip() or "nothing", hint=hint) from None
            if network.prefixlen == 0:
                raise ConfigError(
                    "`--proxies` must not name every address: anyone could claim to be any network, and no brake holds",
                    found=text.strip(),
                    hint="name the proxy's own: `--proxies 127.0.0.1`",
                )

    def _check_strangers(self) -> None:
        """Without accounts whoever reaches the service is its admin, so only this machine may reach it."""
        if self.open_to_everyone:
            if self.accounts:
                raise ConfigError("`--open_to_everyone` and `--accounts` exclude each other", hint="leave one out")
            return
        public = urlsplit(self.public_url)
        if not self.accounts:
            reached = self.host if self.host not in LOOPBACK else public.hostname or ""
            if reached and reached not in LOOPBACK:
                raise ConfigError(
                    f"anyone who reaches {reached} would be this server's admin: nobody signs in",
                    hint=f"`wuya serve --accounts --host {self.host} --public_url {self.public_url or 'https://...'}`",
                )
        elif self.host not in LOOPBACK and public.scheme != "https":
            raise ConfigError(
                f"at {self.host} passwords would cross the network in the open",
                hint="put a reverse proxy with HTTPS in front, and say where: `--public_url https://...`",
            )

    def _check_oidc(self) -> None:
        if not self.oidc_issuer:
            if self.oidc_client or self.oidc_domains:
                message = "`--oidc_client` and `--oidc_domains` do nothing without a provider"
                raise ConfigError(message, hint="name it: `--oidc_issuer https://...`")
            return
        if not is_safe_url(self.oidc_issuer) or "?" in self.oidc_issuer or "#" in self.oidc_issuer:
            hint = "the address before `/.well-known/openid-configuration`: `https://accounts.google.com`"
            raise ConfigError("`--oidc_issuer` is no HTTPS address", found=self.oidc_issuer, hint=hint)
        if not self.oidc_client:
            hint = "register this service at the provider, and name its client id: `--oidc_client ...`"
            raise ConfigError("`--oidc_issuer` needs `--oidc_client`", hint=hint)
        if not self.accounts:
            message = "`--oidc_issuer` does nothing where nobody signs in"
            raise ConfigError(message, hint="add `--accounts`")
        if wrong := [name for name in self.oidc_domains if "." not in name or "@" in name or name != name.strip()]:
            raise ConfigError("`--oidc_domains` has no domain", found=repr(wrong[0]), hint="like `example.org`")

    @property
    def place(self) -> Path:
        """The workspace."""
        return self.workspace or default_workspace()

    @property
    def database_url(self) -> str | Path:
        """URL or file of the database."""
        return self.database or self.place / "wuya.db"

    @property
    def own_url(self) -> str:
        """What to type into a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url.rstrip("/") or f"http://{host}:{self.port}"

    def settings(self, environment: Mapping[str, str]) -> Settings:
        """What the application is told."""
        public = urlsplit(self.public_url)
        return Settings(
            workspace=self.place,
            host=self.host,
            port=self.port,
            accounts=self.accounts,
            open_to_everyone=self.open_to_everyone,
            https=public.scheme == "https",
            public_url=self.public_url.rstrip("/"),
            root_path=public.path.rstrip("/"),
            allowed_hosts=(public.hostname,) if public.hostname else (),
            cors_origins=self.cors_origins,
            metrics_token=environment.get("WUYA_METRICS_TOKEN", ""),
            secret=service_secret(self.place, environment),
            oidc=self.oidc_settings(environment),
        )

    def oidc_settings(self, environment: Mapping[str, str]) -> OidcSettings | None:
        """The OpenID provider, if there is one."""
        if not self.oidc_issuer:
            return None
        check_installed()
        return OidcSettings(
            issuer=self.oidc_issuer,
            client_id=self.oidc_client,
            client_secret=environment.get("WUYA_OIDC_SECRET", ""),
            name=self.oidc_name,
            domains=tuple(domain.lower() for domain in self.oidc_domains),
        )


class Server(uvicorn.Server):
    """uvicorn, which says where it is, and tells the application before it stops: streams end with `event: bye`."""

    def __init__(self, config: uvicorn.Config, service: Service, door: Door, greeting: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._door, self._greeting = service, door, greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then greet."""
        asyncio.get_running_loop().set_exception_handler(self._door.on_loop_error)
        await super().startup(sockets)
        if self.started:
            self._greeting()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams, then connections."""
        await self._service.begin_shutdown()
        await super().shutdown(sockets)


def run(config: ServeConfig) -> Path:
    """Serve until Ctrl-C or SIGTERM; returns the workspace."""
    if config.backup is not None:
        return _backup(config, config.backup)
    if config.upstream:
        models = dict.fromkeys(config.models, "")
    else:
        models = named_models(config.models, config.place, config.database_url)
    if config.check:
        here = None if config.upstream else models
        check(config.place, config.database_url, here, accounts=config.accounts)
        return config.place
    engine = open_model_engine(
        models,
        kind=config.engine,
        upstream=config.upstream,
        quantize=config.quantize,
        device=config.device,
        slots=config.slots,
        context_length=config.context_length,
        workspace=config.place,
    )
    with _one_process(config), _listen(config) as listener:
        check_database(config)
        settings = config.settings(os.environ)
        set_up_logs(config.log_level)
        app = create_app(settings, engine=engine, database=config.database_url)
        service: Service = app.state.service
        if config.new_key:
            with writing(service.database) as connection:
                audit.record(connection, service, audit.NEW_KEY)
        door = Door(raise_descriptor_limit())
        server = Server(_uvicorn_config(config, app, door), service, door, partial(_greet, config, service))
        asyncio.run(server.serve([listener]))
    return config.place


def check_database(config: ServeConfig) -> None:
    """Refuse a damaged file before people write into it, and a database whose key is lost."""
    engine = open_engine(config.database_url)
    try:
        check_pages(engine)
        with reading(engine) as connection:
            is_used = audit.count(connection) > 0
        if is_used and not config.new_key and not has_secret(config.place, os.environ):
            raise ConfigError(
                f"`{config.place / NAME}` is missing, and this database was written with it",
                hint="put it back (it belongs into every backup), or give it up: `wuya serve --new_key`",
            )
    finally:
        engine.dispose()


def _one_process(config: ServeConfig) -> AbstractContextManager[object]:
    """SQLite: one web process, which is enforced; PostgreSQL: as many as there are."""
    with write_errors(config.place):
        make_private(config.place)
    return nullcontext() if config.database.startswith("postgresql") else FileLock(config.place / "serve" / ".lock")


def _listen(config: ServeConfig) -> socket.socket:
    """The listening socket; a port that is taken is said in words."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        hint = f"choose another: `wuya serve --port {config.port + 1}`"
        raise RunError(
            f"can't listen at {config.host} port {config.port}", found=error.strerror or "", hint=hint
        ) from error


def _uvicorn_config(config: ServeConfig, app: FastAPI, door: Door) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded(door),
        ws="none",
        backlog=256,  # also how many connections asyncio takes in before it looks at anything else
        log_config=None,
        access_log=False,  # ours has no queries in it
        server_header=False,
        proxy_headers=bool(config.public_url),
        forwarded_allow_ips=config.proxies,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 << 10,
    )


def _greet(config: ServeConfig, service: Service) -> None:
    if exposed := open_to_others(config.place, config.place / "wuya.db"):
        names = " ".join(map(str, exposed))
        warn(f"other accounts of this machine may read what people write here; close it: `chmod -R go= {names}`")
    say(f"wuya serves at {config.own_url} (Ctrl-C stops it)")
    if config.open_to_everyone:
        warn("everyone who can reach this address is admin here: `--open_to_everyone`; `--accounts` asks who they are")
    elif not config.accounts:
        say("one user, you, on this machine only; `--accounts` lets others sign in")
    elif link := setup_link(service, config.own_url):
        say(f"make the admin account here, within 30 minutes: {link}")
    if config.oidc_issuer:
        say(f"sign-in through {config.oidc_issuer}: its redirect URI is {config.own_url}{CALLBACK}")


def _backup(config: ServeConfig, target: Path) -> Path:
    engine = open_engine(config.database_url)
    try:
        say(f"copied the database to {backup(engine, target)}")
    finally:
        engine.dispose()
    return target
