"""The ledger of tokens: what each person, key and model used on each day, in the chat and by `/v1`. Queries only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Engine, func, select
from sqlalchemy.dialects import postgresql, sqlite

from wuya.feedback.database import reading, writing
from wuya.feedback.tables import User, now, uuid7
from wuya.web.tables import ApiKey, UsageRow


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What was used on one day by one key with one model."""

    day: date
    user_id: str
    owner: str
    key_id: str
    key_name: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


def add_usage(
    database: Engine,
    *,
    day: date,
    user_id: str,
    key_id: str | None,
    model: str,
    prompt_tokens: int,
    completion_tokens: int,
    requests: int = 1,
) -> None:
    """Add to a day's row, which is made if it is the first."""
    values = {
        "day": day,
        "user_id": user_id,
        "api_key_id": key_id or "",
        "model": model,
        "requests": requests,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
    }
    with writing(database) as connection:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        row = dialect.insert(UsageRow).values(id=uuid7(), **values)
        counted = ("requests", "prompt_tokens", "completion_tokens")
        sums = {name: getattr(UsageRow, name) + row.excluded[name] for name in counted}
        names = [UsageRow.day, UsageRow.user_id, UsageRow.api_key_id, UsageRow.model]
        connection.execute(row.on_conflict_do_update(index_elements=names, set_=sums))


def tokens_this_month(database: Engine, key_id: str) -> int:
    """Tokens of a key since the first of the month (UTC)."""
    spent = func.coalesce(func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens), 0)
    with reading(database) as connection:
        query = select(spent).where(UsageRow.api_key_id == key_id, UsageRow.day >= month_start())
        return int(connection.execute(query).scalar_one())


def list_usage(database: Engine, user_id: str | None, *, since: date) -> Sequence[UsageRecord]:
    """The ledger from a day on, the newest day first: one person's, or (None) everybody's."""
    mine = (UsageRow.user_id == user_id,) if user_id is not None else ()
    query = (
        select(
            UsageRow.day,
            UsageRow.user_id,
            func.coalesce(User.display_name, "").label("owner"),
            UsageRow.api_key_id,
            func.coalesce(ApiKey.name, "").label("key_name"),
            UsageRow.model,
            UsageRow.requests,
            UsageRow.prompt_tokens,
            UsageRow.completion_tokens,
        )
        .outerjoin(User, User.id == UsageRow.user_id)
        .outerjoin(ApiKey, ApiKey.id == UsageRow.api_key_id)
        .where(UsageRow.day >= since, *mine)
        .order_by(UsageRow.day.desc(), UsageRow.model, UsageRow.api_key_id)
        .limit(5000)
    )
    with reading(database) as connection:
        return [UsageRecord(*row) for row in connection.execute(query)]


def month_start() -> date:
    """Where the budgets begin (UTC)."""
    return now().date().replace(day=1)
