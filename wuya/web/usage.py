"""The ledger of tokens: what each person, key and model used on each day, in the chat and by `/v1`, and budgets.

A request with a budget reserves what it may use at most, in the transaction that looks how much is left; that goes
when the tokens are counted. So no two requests spend the same tokens, in whichever web process they run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from sqlalchemy import Connection, Engine, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import User, now, uuid7
from wuya.database.service_tables import ApiKey, ChatComparison, Conversation, TokenReservation, UsageRow

RESERVED_FOR = timedelta(hours=1)
"""No request runs for longer; the reservations of a killed process end then."""


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
    reservation: str = "",
) -> None:
    """Add to a day's row, which is made if it is the first; what was reserved for it is free in the same moment."""
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
        if reservation:
            connection.execute(delete(TokenReservation).where(TokenReservation.id == reservation))


def reserve(database: Engine, key_id: str, tokens: int, *, budget: int) -> tuple[str, int]:
    """Keep tokens of a month's budget for a request: the reservation's id ("": it does not fit), what was left."""
    with writing(database) as connection:
        connection.execute(select(ApiKey.id).where(ApiKey.id == key_id).with_for_update())  # one after another
        connection.execute(delete(TokenReservation).where(TokenReservation.expires_at < now()))
        held = select(func.coalesce(func.sum(TokenReservation.tokens), 0)).where(TokenReservation.api_key_id == key_id)
        left = budget - _spent(connection, key_id) - int(connection.execute(held).scalar_one())
        if tokens > left:
            return "", left
        id = uuid7()
        row = {"id": id, "api_key_id": key_id, "tokens": tokens, "expires_at": now() + RESERVED_FOR}
        connection.execute(insert(TokenReservation).values(row))
        return id, left


def release(database: Engine, reservation: str) -> None:
    """Give reserved tokens back: the request came to nothing."""
    with writing(database) as connection:
        connection.execute(delete(TokenReservation).where(TokenReservation.id == reservation))


def _spent(connection: Connection, key_id: str) -> int:
    spent = func.coalesce(func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens), 0)
    query = select(spent).where(UsageRow.api_key_id == key_id, UsageRow.day >= month_start())
    return int(connection.execute(query).scalar_one())


def list_usage(database: Engine, user_id: str | None, *, since: date) -> Sequence[UsageRecord]:
    """The ledger from a day on, the newest day first: one person's, or (None) everybody's.

    A day on which somebody has yet to vote between two blind answers has one row for all models of their chat: how
    many tokens each model wrote would tell whose answer is the longer one.
    """
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
        rows = [UsageRecord(*row) for row in connection.execute(query)]
        return _blinded(rows, _undecided_days(connection, user_id))


def _undecided_days(connection: Connection, user_id: str | None) -> set[tuple[str, date]]:
    """Who has yet to vote, and the days on which the answers may have been counted."""
    query = (
        select(Conversation.user_id, ChatComparison.created_at)
        .join(Conversation, Conversation.id == ChatComparison.conversation_id)
        .where(ChatComparison.outcome.is_(None))
    )
    mine = query.where(Conversation.user_id == user_id) if user_id is not None else query
    found = {(user, at.date()) for user, at in connection.execute(mine)}
    return found | {(user, day + timedelta(days=1)) for user, day in found}  # answers that end past midnight


def _blinded(rows: Sequence[UsageRecord], undecided: set[tuple[str, date]]) -> list[UsageRecord]:
    """The rows, those of undecided days in the chat added up under the model ""."""
    found: list[UsageRecord] = []
    sums: dict[tuple[str, date], int] = {}
    for row in rows:
        key = (row.user_id, row.day)
        if row.key_id or key not in undecided:
            found.append(row)
        elif key not in sums:
            sums[key] = len(found)
            found.append(replace(row, model=""))
        else:
            before = found[sums[key]]
            counted = ("requests", "prompt_tokens", "completion_tokens")
            found[sums[key]] = replace(before, **{name: getattr(before, name) + getattr(row, name) for name in counted})
    return found


def month_start() -> date:
    """Where the budgets begin (UTC)."""
    return now().date().replace(day=1)
