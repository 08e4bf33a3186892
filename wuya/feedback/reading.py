"""Records out of the database, in an order that depends on what was said and not on when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, exists, func, select
from sqlalchemy.orm import aliased

from wuya.data.messages import parse_tools
from wuya.database.labeling_tables import (
    Assignment,
    ComparisonRow,
    DemonstrationRow,
    LabelProject,
    LabelTask,
    MessageFeedback,
    MetadataLabel,
    ModelVersion,
    PromptRow,
    RankingItem,
    RankingRow,
    TaskCandidate,
    User,
)
from wuya.feedback.bulk import HUMAN, chunks
from wuya.feedback.rows import Row, messages_from_json, ranking_to_row
from wuya.records import Candidate, Comparison, Demonstration, Feedback, Message, Prompt, Ranking


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rankings: all that fit every condition given; empty means any."""

    project: str = ""
    rounds: tuple[int, ...] = ()
    labelers: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    without_labelers: tuple[str, ...] = ()
    """The one condition that excludes."""
    own: bool = False
    """What labelers said, for agreement; else, where a reviewer decided a task, that verdict alone."""


@dataclass(frozen=True, slots=True)
class RawRanking:
    """A ranking with everything the labeler said: also what training does not use."""

    ranking: Ranking
    cannot_rank: bool
    comment: str
    active_ms: int | None
    labels: tuple[dict[str, Any], ...]
    """Answers to the schema's questions, one dict per candidate; None is 'not answered'."""


def rankings(connection: Connection, selection: Selection) -> Iterator[Ranking]:
    """Rankings by round, prompt and labeler. Left out: what could not be ranked, and test tasks."""
    for raw in raw_rankings(connection, selection, tests=False):
        if not raw.cannot_rank:
            yield raw.ranking


def raw_rankings(connection: Connection, selection: Selection, *, tests: bool = True) -> Iterator[RawRanking]:
    """All rankings with labels and timings, in the order of `rankings`; verdicts and what they replace, too."""
    chosen = _chosen(selection) if tests and not selection.own else _decided(selection)
    ids: list[str] = list(connection.execute(chosen).scalars())
    for chunk in chunks(ids):
        query = (
            select(
                RankingRow.id,
                RankingRow.task_id,
                RankingRow.assignment_id,
                RankingRow.source,
                RankingRow.cannot_rank,
                RankingRow.comment,
                RankingRow.created_at,
                Assignment.active_ms,
                LabelTask.prompt_id,
                LabelTask.round,
                User.display_name,
            )
            .join(Assignment, Assignment.id == RankingRow.assignment_id)
            .join(LabelTask, LabelTask.id == RankingRow.task_id)
            .outerjoin(User, User.id == Assignment.user_id)
            .where(RankingRow.id.in_(chunk))
        )
        rows = {row.id: row for row in connection.execute(query)}
        prompts = prompts_by_id(connection, sorted({row.prompt_id for row in rows.values()}))
        candidates = _candidates(connection, sorted({row.task_id for row in rows.values()}))
        items = select(RankingItem.ranking_id, RankingItem.candidate_id, RankingItem.rank)
        ranks = {
            (str(r), str(c)): rank for r, c, rank in connection.execute(items.where(RankingItem.ranking_id.in_(chunk)))
        }
        labels = labels_of(connection, [row.assignment_id for row in rows.values()])
        for id in chunk:
            row = rows[id]
            group = candidates[row.task_id]
            own = labels.get(row.assignment_id, {})
            yield RawRanking(
                Ranking(
                    prompt=prompts[row.prompt_id],
                    candidates=tuple(c for _, c in group),
                    ranks=() if row.cannot_rank else tuple(ranks[id, c] for c, _ in group),
                    labeler=row.display_name or "",
                    round=row.round,
                    source=row.source,
                    created_at=row.created_at.isoformat(),
                    flags=own.get(None, {}),
                ),
                row.cannot_rank,
                row.comment,
                row.active_ms,
                tuple(own.get(c, {}) for c, _ in group),
            )


def _chosen(selection: Selection) -> Select[Any]:
    query = (
        select(RankingRow.id)
        .join(Assignment, Assignment.id == RankingRow.assignment_id)
        .join(LabelTask, LabelTask.id == RankingRow.task_id)
        .outerjoin(User, User.id == Assignment.user_id)
        .where(RankingRow.state == "accepted")
        .order_by(LabelTask.round, LabelTask.prompt_id, LabelTask.dedupe_key, User.display_name, RankingRow.id)
    )
    if selection.project:
        query = query.join(LabelProject, LabelProject.id == LabelTask.project_id)
        query = query.where(LabelProject.name == selection.project)
    if selection.rounds:
        query = query.where(LabelTask.round.in_(selection.rounds))
    if selection.labelers:
        query = query.where(User.display_name.in_(selection.labelers))
    if selection.without_labelers:
        query = query.where(func.coalesce(User.display_name, "").not_in(selection.without_labelers))
    if selection.sources:
        query = query.where(RankingRow.source.in_(selection.sources))
    return query


def _decided(selection: Selection) -> Select[Any]:
    """What training reads (or, with `own`, what labelers themselves said); never the answers to test tasks."""
    query = _chosen(selection).where(LabelTask.is_gold.is_(False))
    if selection.own:
        return query.where(RankingRow.is_final.is_(False))
    final = aliased(RankingRow)
    verdict = exists().where(final.task_id == RankingRow.task_id, final.is_final, final.state == "accepted")
    return query.where(RankingRow.is_final | ~verdict)


def open_answers(connection: Connection, *, project: str, round: int) -> Iterator[tuple[Prompt, Sequence[Candidate]]]:
    """Prompts with answers that wait for a ranking, in the order of the queue."""
    query = (
        select(LabelTask.id, LabelTask.prompt_id)
        .join(LabelProject, LabelProject.id == LabelTask.project_id)
        .where(LabelProject.name == project, LabelTask.round == round, LabelTask.state == "open")
        .order_by(LabelTask.priority.desc(), LabelTask.shuffle_key)
    )
    for chunk in chunks(connection.execute(query).all()):
        found = prompts_by_id(connection, sorted({row.prompt_id for row in chunk}))
        candidates = _candidates(connection, [row.id for row in chunk])
        yield from ((found[row.prompt_id], [c for _, c in candidates[row.id]]) for row in chunk)


def prompts(connection: Connection, *, split: str = "", in_any_state: bool = False) -> Iterator[Prompt]:
    """Approved prompts by id; with `in_any_state` also those that wait for a decision, are rejected or retired."""
    query = select(PromptRow.id).order_by(PromptRow.id)
    query = query if in_any_state else query.where(PromptRow.state == "approved")
    for chunk in chunks(list(connection.execute(query.where(PromptRow.split == split) if split else query).scalars())):
        found = prompts_by_id(connection, chunk)
        yield from (found[id] for id in chunk)


def demonstrations(connection: Connection) -> Iterator[Demonstration]:
    """Accepted demonstrations by prompt and author."""
    query = select(DemonstrationRow.prompt_id, DemonstrationRow.completion, DemonstrationRow.author)
    order = DemonstrationRow.prompt_id, DemonstrationRow.author, DemonstrationRow.completion_sha256
    rows = connection.execute(query.where(DemonstrationRow.state == "accepted").order_by(*order)).all()
    for chunk in chunks(rows):
        found = prompts_by_id(connection, sorted({row.prompt_id for row in chunk}))
        yield from (
            Demonstration(found[row.prompt_id], Message("assistant", row.completion), row.author) for row in chunk
        )


def comparisons(connection: Connection) -> Iterator[Comparison]:
    """Decided comparisons of the chat and of evaluations, ties left out, by prompt."""
    query = (
        select(ComparisonRow.__table__, User.display_name)
        .outerjoin(User, User.id == ComparisonRow.user_id)
        .where(ComparisonRow.outcome.in_(("a", "b")))
        .order_by(ComparisonRow.prompt_id, ComparisonRow.dedupe_key)
    )
    for chunk in chunks(connection.execute(query).mappings().all()):
        found = prompts_by_id(connection, sorted({row["prompt_id"] for row in chunk}))
        for row in chunk:
            pair = (row["a_text"], row["b_text"])
            chosen, rejected = pair if row["outcome"] == "a" else pair[::-1]
            labeler, group = row["display_name"] or "", row["group_id"]
            yield Comparison(found[row["prompt_id"]], chosen, rejected, labeler, group, row["source"])


def feedback(connection: Connection) -> Iterator[Feedback]:
    """What users said about answers, in the order they said it."""
    query = select(MessageFeedback.__table__, User.display_name).outerjoin(User, User.id == MessageFeedback.user_id)
    rows = connection.execute(query.order_by(MessageFeedback.id)).mappings().all()
    for chunk in chunks(rows):
        found = prompts_by_id(connection, sorted({row["prompt_id"] for row in chunk}))
        for row in chunk:
            yield Feedback(
                found[row["prompt_id"]],
                row["completion"],
                row["value"],
                tuple(row["reasons"]),
                row["comment"],
                row["better_answer"],
                row["display_name"] or "",
            )


def prompts_by_id(connection: Connection, ids: Sequence[str]) -> dict[str, Prompt]:
    """Prompts by their ids."""
    query = select(PromptRow.id, PromptRow.messages, PromptRow.tools, PromptRow.source, PromptRow.source_user_hash)
    return {
        row.id: Prompt(
            row.id, messages_from_json(row.messages), row.source, row.source_user_hash, parse_tools(row.tools)
        )
        for row in connection.execute(query.where(PromptRow.id.in_(ids)))
    }


def _candidates(connection: Connection, tasks: Sequence[str]) -> dict[str, list[tuple[str, Candidate]]]:
    """(id, candidate) of each task, in position order."""
    query = (
        select(TaskCandidate.__table__, ModelVersion.name.label("model"))
        .outerjoin(ModelVersion, ModelVersion.id == TaskCandidate.model_version_id)
        .where(TaskCandidate.task_id.in_(tasks))
        .order_by(TaskCandidate.task_id, TaskCandidate.position)
    )
    found: dict[str, list[tuple[str, Candidate]]] = {}
    for row in connection.execute(query).mappings():
        candidate = Candidate(
            row["text"],
            tuple(row["token_ids"]),
            HUMAN if row["is_human"] else row["model"] or "",
            row["finished"],
            row["sampling"].get("temperature", 1.0),
        )
        found.setdefault(row["task_id"], []).append((row["id"], candidate))
    return found


def labels_of(connection: Connection, assignments: Sequence[str]) -> dict[str, dict[str | None, dict[str, Any]]]:
    """assignment -> candidate id (None: the prompt) -> key -> answer."""
    query = select(MetadataLabel.__table__).where(MetadataLabel.assignment_id.in_(assignments))
    found: dict[str, dict[str | None, dict[str, Any]]] = {}
    for row in connection.execute(query.order_by(MetadataLabel.key)).mappings():
        values = [row[name] for name in ("value_bool", "value_text", "value_num") if row[name] is not None]
        value = values[0] if values else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        found.setdefault(row["assignment_id"], {}).setdefault(row["candidate_id"], {})[row["key"]] = value
    return found


def raw_to_row(raw: RawRanking) -> Row:
    """The `raw` form of a ranking: with comment, labels (null = not answered) and times."""
    row = ranking_to_row(raw.ranking) | {"cannot_rank": raw.cannot_rank, "comment": raw.comment}
    return row | {"labels": list(raw.labels), "active_ms": raw.active_ms, "created_at": raw.ranking.created_at}
