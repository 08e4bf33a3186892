"""Who may ask for what: every route of the service by hand, so that the matrix does not believe the code it tests.

A route that is missing here fails `tests/web/test_matrix.py`. Where a route names a thing in its path or body that
belongs to one person, it stands in OF_ITS_OWNER, and everyone else gets 404 whatever their role.
"""

EVERYONE = ("admin", "lead", "moderator", "labeler", "user")
WHO = {
    "account": EVERYONE,
    "chat": EVERYONE,
    "keys": EVERYONE,
    "label": ("admin", "lead", "labeler"),
    "label:lead": ("admin", "lead"),
    "runs": ("admin", "lead"),
    "runs:write": ("admin", "lead"),
    "models": ("admin", "lead"),
    "moderate": ("admin", "moderator"),
    "admin:page": ("admin", "moderator"),
    "admin": ("admin",),
}
"""Permission -> the roles that have it."""
BY_KEY = "runs:write"
"""The only permission under `/api` that an API key may carry."""


def _routes(text: str) -> frozenset[str]:
    return frozenset(" ".join(line.split()) for line in text.strip().splitlines())


OPEN = _routes("""
    GET    /
    GET    /openapi.json
    HEAD   /openapi.json
    GET    /healthz
    GET    /readyz
    GET    /metrics
    GET    /login
    GET    /setup
    GET    /join
    GET    /reset
    POST   /login
    POST   /setup
    POST   /join
    POST   /reset
    GET    /auth/oidc/start
    GET    /auth/oidc/callback
    GET    /auth/oidc/finish
    POST   /auth/oidc/finish
    POST   /api/auth/login
    POST   /api/auth/logout
    POST   /api/auth/setup
    POST   /api/auth/join
    POST   /api/auth/password/reset
""")
"""Signing in, health, and the description of the API: for anyone."""

SHARED = _routes("""
    GET    /s/{id}
    GET    /api/shares/{id}
""")
"""For whoever has the link, or for people who signed in, as the share's owner chose."""

OF_A_ROLE = {
    "account": _routes("""
        POST   /api/auth/totp/begin
        POST   /api/auth/totp/enable
        POST   /api/auth/totp/disable
        GET    /api/me
        PATCH  /api/me
        DELETE /api/me
        POST   /api/me/password
        GET    /api/me/sessions
        GET    /account
    """),
    "admin": _routes("""
        GET    /api/admin/users
        POST   /api/admin/users/invite
        DELETE /api/admin/users/invite/{id}
        POST   /api/admin/users/{id}/reset
        PATCH  /api/admin/users/{id}
        DELETE /api/admin/users/{id}
        GET    /api/admin/settings
        PATCH  /api/admin/settings
        GET    /api/admin/audit
        PUT    /api/keys/limits
        GET    /api/admin/system
        POST   /api/admin/system/backup
    """),
    "admin:page": _routes("""
        GET    /admin
    """),
    "chat": _routes("""
        GET    /api/chat/config
        GET    /api/conversations
        POST   /api/conversations
        POST   /api/conversations/bulk
        PUT    /api/conversations/data_use
        GET    /api/search
        POST   /api/tokenize
        POST   /api/comparisons
        GET    /chat
        GET    /chat/{id}
        GET    /api/shares
        POST   /api/shares/{id}/fork
        GET    /api/export
        GET    /api/import
        POST   /api/import
        GET    /api/models
    """),
    "keys": _routes("""
        GET    /api/keys
        POST   /api/keys
        GET    /api/usage
        GET    /keys
    """),
    "label": _routes("""
        GET    /label
        GET    /label/tasks/{id}
        GET    /api/label/projects
        POST   /api/label/projects/{id}/quiz
        POST   /api/label/next
        GET    /api/label/me/stats
        GET    /api/label/me/export
        POST   /api/label/preview
    """),
    "label:lead": _routes("""
        GET    /label/review
        GET    /data
        GET    /api/admin/projects
        POST   /api/admin/projects
        PATCH  /api/admin/projects/{id}
        POST   /api/prompts/import
        GET    /api/admin/prompts
        POST   /api/admin/prompts
        POST   /api/tasks/bulk
        GET    /api/admin/tasks
        GET    /api/admin/tasks/{id}
        POST   /api/tasks/{id}/adjudicate
        POST   /api/tasks/{id}/gold
        POST   /api/tasks/{id}/{action}
        POST   /api/assignments/{id}/review
        GET    /api/agreement
        POST   /api/admin/projects/{id}/labelers/{user}
        GET    /api/data
        GET    /api/exports
        POST   /api/exports
        GET    /api/exports/{id}/download
        GET    /api/exports/{id}/diff
        POST   /api/admin/projects/{id}/sample
        GET    /api/admin/projects/{id}/sample
        DELETE /api/admin/projects/{id}/sample
    """),
    "runs": _routes("""
        GET    /api/runs
        GET    /api/runs/events
        GET    /api/runs/same-prompt
        GET    /api/runs/{id}
        GET    /api/runs/{id}/series
        GET    /api/runs/{id}/samples
        GET    /api/runs/{id}/rollouts
        GET    /api/runs/{id}/metrics.csv
        GET    /runs
        GET    /runs/{id}
        GET    /models
        GET    /api/registry
        GET    /api/model-versions/{id}/lineage
    """),
    "models": _routes("""
        POST   /api/model-versions
        POST   /api/models/{alias}/promote
        POST   /api/models/{alias}/canary
        POST   /api/models/{alias}/rollback
    """),
    "runs:write": _routes("""
        POST   /api/runs
    """),
    "moderate": _routes("""
        GET    /api/admin/moderation/rules
        PUT    /api/admin/moderation/rules
        POST   /api/admin/moderation/try
        GET    /api/admin/moderation/queue
        POST   /api/admin/moderation/queue/{id}/open
        POST   /api/admin/moderation/queue/{id}
    """),
}
"""Permission -> routes that work the same for everyone who has it."""

OF_ITS_OWNER = {
    "account": _routes("""
        DELETE /api/me/sessions/{id}
    """),
    "chat": _routes("""
        GET    /api/conversations/{id}
        PATCH  /api/conversations/{id}
        DELETE /api/conversations/{id}
        GET    /api/conversations/{id}/messages
        POST   /api/conversations/{id}/messages
        POST   /api/conversations/{id}/fork
        POST   /api/conversations/{id}/share
        GET    /api/conversations/{id}/export
        GET    /api/messages/{id}
        POST   /api/messages/{id}/edit
        POST   /api/messages/{id}/generate
        POST   /api/messages/{id}/continue
        POST   /api/messages/{id}/select
        PUT    /api/messages/{id}/feedback
        DELETE /api/messages/{id}/feedback
        POST   /api/messages/{id}/report
        GET    /api/generations/{id}
        POST   /api/generations/{id}/stop
        GET    /api/generations/{id}/events
        DELETE /api/shares/{id}
    """),
    "keys": _routes("""
        PATCH  /api/keys/{key_id}
        POST   /api/keys/{key_id}/rotate
        DELETE /api/keys/{key_id}
    """),
    "label": _routes("""
        GET    /api/assignments/{id}
        PATCH  /api/assignments/{id}
        POST   /api/assignments/{id}/heartbeat
        POST   /api/assignments/{id}/skip
        POST   /api/assignments/{id}/release
        POST   /api/assignments/{id}/submit
    """),
    "runs:write": _routes("""
        POST   /api/runs/{id}/metrics
        POST   /api/runs/{id}/samples
        POST   /api/runs/{id}/events
        POST   /api/runs/{id}/heartbeat
    """),
}
"""Permission -> routes about one person's thing."""
ADMINS_TOO = _routes("""
    PATCH  /api/keys/{key_id}
    DELETE /api/keys/{key_id}
""")
"""Of OF_ITS_OWNER: admins may stop and limit everybody's keys (only its owner may see a new secret)."""

OF_A_SCOPE = {
    "chat": _routes("POST /v1/chat/completions"),
    "completions": _routes("POST /v1/completions"),
    "embeddings": _routes("POST /v1/embeddings"),
    "moderations": _routes("POST /v1/moderations"),
    "": _routes("""
        GET    /v1/models
        GET    /v1/models/{model:path}
        POST   /v1/tokenize
        POST   /v1/detokenize
    """),
}
"""Scope of an API key -> routes; "" is any scope of `/v1`."""

NAMED_IN_BODIES = {
    "POST /api/conversations/bulk": {"ids"},
    "GET /api/conversations/{id}/messages": {"before"},
    "POST /api/conversations/{id}/messages": {"id", "parent_id"},
    "PATCH /api/conversations/{id}": {"active_leaf_id"},
    "POST /api/conversations/{id}/fork": {"leaf_id"},
    "POST /api/conversations/{id}/share": {"leaf_id"},
    "POST /api/tokenize": {"conversation_id", "leaf_id"},
    "POST /api/comparisons": {"comparison_id"},
}
"""Routes whose body or query names a person's thing; each is tried with somebody else's."""
NAMES_NOBODYS = {
    "POST /api/admin/prompts": {"ids"},  # a lead decides on everybody's prompts
    "GET /api/runs/events": {"ids"},  # every lead watches all runs
    "GET /api/generations/{id}/events": {"last_event_id"},  # how far a stream was read
    "POST /api/models/{alias}/promote": {"version_id"},
    "POST /api/models/{alias}/canary": {"version_id"},
    "PUT /api/admin/moderation/rules": {"id"},  # of a rule
    "POST /api/tasks/bulk": {"id", "project"},  # id: of a prompt; every lead sees all projects
    "GET /api/admin/tasks": {"project"},
    "GET /api/agreement": {"project"},
    "POST /api/exports": {"project", "labelers"},
    "POST /api/label/next": {"project"},  # open ones are for every labeler
    "POST /api/model-versions": {"run"},  # every lead sees all runs
    "GET /api/admin/audit": {"before"},  # the number of a row
    "POST /v1/chat/completions": {"id", "tool_call_id", "user"},  # the caller's own names
    "POST /v1/completions": {"user"},
    "POST /v1/embeddings": {"user"},
    "POST /v1/tokenize": {"id", "tool_call_id"},
}
"""Routes whose body or query has ids that belong to nobody."""
