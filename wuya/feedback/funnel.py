"""From prompts to a frozen export: how many are left at each step, what they look like, and whether splits leak."""

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Integer, cast, func, select

from wuya.database.labeling_tables import (
    Assignment,
    Export,
    LabelTask,
    MetadataLabel,
    PromptRow,
    RankingItem,
    RankingRow,
    TaskCandidate,
    User,
)

DONE = ("submitted", "accepted")


def funnel(connection: Connection, *, at: datetime) -> dict[str, Any]:
    """Everything the page "data and labels" shows, but the list of exports."""
    prompts = _counts(connection, PromptRow.state)
    tasks = select(func.count()).select_from(LabelTask).where(LabelTask.is_gold.is_(False))
    exported = select(func.max(Export.n_rows)).where(Export.kind == "rm_rankings")
    newest = select(Export.n_rows).where(Export.kind == "rm_rankings").order_by(Export.frozen_at.desc()).limit(1)
    steps = {
        "prompts": sum(prompts.values()),
        "approved": prompts.get("approved", 0),
        "tasked": _number(connection, select(func.count(LabelTask.prompt_id.distinct()))),
        "submitted": _number(connection, tasks.where(LabelTask.n_submitted > 0)),
        "complete": _number(connection, tasks.where(LabelTask.state.in_(("complete", "accepted")))),
        "accepted": _number(connection, tasks.where(LabelTask.state == "accepted")),
        "exported": _number(connection, newest) or _number(connection, exported),
    }
    return {
        "steps": steps,
        "waiting": prompts.get("new", 0),
        "splits": _counts(connection, PromptRow.split),
        "languages": _counts(connection, PromptRow.lang),
        "sources": _counts(connection, PromptRow.source),
        "personal_data": _counts(connection, PromptRow.pii_state),
        "categories": _categories(connection),
        "sizes": _sizes(connection),
        "ties": _tie_rate(connection),
        "flags": _flags(connection),
        "throughput": _throughput(connection, at=at),
        "leaks": leaking_authors(connection),
        "states": _counts(connection, LabelTask.state),
    }


def _number(connection: Connection, query: Any) -> int:
    return int(connection.execute(query).scalar() or 0)


def _counts(connection: Connection, column: Any) -> dict[str, int]:
    rows = connection.execute(select(column, func.count()).group_by(column)).all()
    return {str(value or ""): count for value, count in sorted(rows, key=lambda row: -row[1])}


def _categories(connection: Connection) -> dict[str, int]:
    """As labelers say it, else as the prompt came."""
    said = select(MetadataLabel.value_text, func.count()).where(
        MetadataLabel.key == "category", MetadataLabel.value_text.is_not(None)
    )
    found = {str(v): n for v, n in connection.execute(said.group_by(MetadataLabel.value_text))}
    return dict(sorted(found.items(), key=lambda item: -item[1])) or _counts(connection, PromptRow.category)


def _sizes(connection: Connection) -> dict[str, int]:
    """How many tasks have K answers."""
    sizes = select(func.count().label("k")).select_from(TaskCandidate).group_by(TaskCandidate.task_id).subquery()
    rows = connection.execute(select(sizes.c.k, func.count()).group_by(sizes.c.k).order_by(sizes.c.k))
    return {str(k): count for k, count in rows}


def _tie_rate(connection: Connection) -> float | None:
    """Share of pairs of answers that rankings tie."""
    groups = (
        select(RankingItem.ranking_id, RankingItem.rank, func.count().label("n"))
        .join(RankingRow, RankingRow.id == RankingItem.ranking_id)
        .where(RankingRow.state == "accepted")
        .group_by(RankingItem.ranking_id, RankingItem.rank)
        .subquery()
    )
    per_ranking = select(
        func.sum(groups.c.n * (groups.c.n - 1)).label("tied"), func.sum(groups.c.n).label("k")
    ).group_by(groups.c.ranking_id)
    sums = per_ranking.subquery()
    tied, pairs = connection.execute(select(func.sum(sums.c.tied), func.sum(sums.c.k * (sums.c.k - 1)))).one()
    return float(tied) / float(pairs) if pairs else None


def _flags(connection: Connection) -> list[dict[str, Any]]:
    """For each yes/no question: shown, answered, share of yes among the answers."""
    answered, yes = func.count(MetadataLabel.value_bool), func.sum(cast(MetadataLabel.value_bool, Integer))
    query = (
        select(MetadataLabel.key, func.count(), answered, yes)
        .where(MetadataLabel.value_num.is_(None))
        .group_by(MetadataLabel.key)
        .order_by(MetadataLabel.key)
    )
    return [
        {"key": key, "shown": shown, "answered": n, "yes": (float(y or 0) / n) if n else None}
        for key, shown, n, y in connection.execute(query)
        if key != "category"
    ]


def _throughput(connection: Connection, *, at: datetime, days: int = 14) -> list[dict[str, Any]]:
    """Submissions by labeler and day, for the last two weeks."""
    query = (
        select(User.display_name, Assignment.submitted_at)
        .join(User, User.id == Assignment.user_id)
        .where(Assignment.state.in_(DONE), Assignment.submitted_at > at - timedelta(days=days))
    )
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name, moment in connection.execute(query):
        assert moment is not None  # what was submitted has a time
        found[name][moment.date().isoformat()] += 1
    dates = [(at - timedelta(days=back)).date().isoformat() for back in range(days - 1, -1, -1)]
    rows = [{"labeler": name, "days": [counts[day] for day in dates]} for name, counts in found.items()]
    return sorted(rows, key=lambda row: -sum(row["days"]))


def leaking_authors(connection: Connection) -> int:
    """Authors whose prompts stand in more than one split: there should be none."""
    query = (
        select(PromptRow.source_user_hash)
        .where(PromptRow.source_user_hash != "", PromptRow.split.is_not(None))
        .group_by(PromptRow.source_user_hash)
        .having(func.count(PromptRow.split.distinct()) > 1)
    )
    return len(connection.execute(query).all())


def exports(connection: Connection) -> list[dict[str, Any]]:
    """Frozen files, newest first, numbered by kind."""
    rows = connection.execute(select(Export.__table__).order_by(Export.frozen_at)).mappings().all()
    number: Counter[str] = Counter()
    found = []
    for row in rows:
        number[row["kind"]] += 1
        found.append(dict(row) | {"version": number[row["kind"]]})
    return found[::-1]
