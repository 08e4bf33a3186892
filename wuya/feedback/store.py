"""The feedback store: people, queues and everything they said, behind one class.

    with FeedbackStore(workspace / "wuya.db") as store:
        store.queue_tasks([(prompt, candidates), ...])
        while task := store.claim("ann"):
            store.submit_ranking(task.assignment_id, task.ranks_by_id([2, 1, 3]))
        snapshot = store.export_snapshot("rm_rankings", run_folder)

It takes and returns the frozen records of `wuya.records`. Training never reads it: `export_snapshot` freezes what a run
reads, and records the hash. Several processes may use one SQLite file; PostgreSQL is a URL away.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, func, insert, select, update

from wuya.database.connection import open_engine, writing
from wuya.database.connection import reading as read_transaction
from wuya.database.labeling_tables import (
    Base,
    ComparisonRow,
    DemonstrationRow,
    LabelProject,
    MessageFeedback,
    now,
    uuid7,
)
from wuya.errors import DataError
from wuya.feedback import exports, provenance, queue, reading, rows, submission
from wuya.feedback.bulk import (
    Answers,
    Label,
    chunks,
    ensure_project,
    ensure_prompts,
    ensure_tasks,
    ensure_users,
    insert_rankings,
    insert_rows,
)
from wuya.feedback.comparisons import DEFAULT_WEIGHTS
from wuya.feedback.identity import UnnamedVotes, settled_prompts
from wuya.feedback.queue import LabelingTask
from wuya.feedback.reading import RawRanking, Selection
from wuya.feedback.snapshot import Kind, Snapshot, write_snapshot
from wuya.files import sha256_json
from wuya.records import Comparison, Demonstration, Feedback, Prompt, Ranking

DEFAULT_PROJECT = "default"
EVERYTHING = Selection()


class FeedbackStore:
    """A feedback database, opened and migrated. Safe to use from several threads and processes."""

    def __init__(self, url: str | Path) -> None:
        """Open `url` (sqlite:///file, postgresql+psycopg://...) or the SQLite file at a path; make it if it is new."""
        self._engine, self._is_owner = open_engine(url), True

    @classmethod
    def on(cls, engine: Engine) -> Self:
        """A store on an engine that its owner opened, migrated and will close."""
        store = cls.__new__(cls)
        store._engine, store._is_owner = engine, False
        return store

    def close(self) -> None:
        """Give back the connections; a borrowed engine stays as it is."""
        if self._is_owner:
            self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Into the store

    def add_prompts(self, prompts: Iterable[Prompt], *, split: str = "") -> int:
        """Add prompts that are new; how many. `split` (train, val, test) is set on the new ones."""
        with writing(self._engine) as connection:
            return ensure_prompts(connection, prompts, split=split)

    def add_demonstrations(self, demonstrations: Iterable[Demonstration]) -> int:
        """Add answers that people wrote; how many were new."""
        count = 0
        with writing(self._engine) as connection:
            for raw in chunks(demonstrations):
                prompts = settled_prompts(connection, [d.prompt for d in raw])
                chunk = [replace(_text_only(d), prompt=prompt) for d, prompt in zip(raw, prompts, strict=True)]
                ensure_prompts(connection, prompts)
                keyed = {(d.prompt.id, d.labeler, rows.sha256_text(d.completion)): d for d in chunk}
                columns = DemonstrationRow.prompt_id, DemonstrationRow.author, DemonstrationRow.completion_sha256
                known = select(*columns).where(DemonstrationRow.prompt_id.in_([d.prompt.id for d in chunk]))
                for id, author, sha256 in connection.execute(known):
                    keyed.pop((id, author, sha256), None)
                new = [
                    {"prompt_id": id, "author": author, "completion_sha256": sha256, "completion": d.completion}
                    for (id, author, sha256), d in keyed.items()
                ]
                insert_rows(connection, DemonstrationRow, new)
                count += len(new)
        return count

    def add_rankings(
        self,
        rankings: Iterable[Ranking],
        *,
        project: str = DEFAULT_PROJECT,
        refuse: Callable[[DataError], None] | None = None,
    ) -> int:
        """Add finished rankings (simulated or imported) with their prompts and answers; how many were new.

        Args:
            refuse: called for a ranking that can't be kept, which is left out; by default the first one raises.
        """
        count, unnamed = 0, UnnamedVotes()
        with writing(self._engine) as connection:
            found = ensure_project(connection, project)
            for chunk in chunks(rankings):
                count += insert_rankings(connection, found, chunk, unnamed=unnamed, refuse=refuse)
        return count

    def add_comparisons(self, comparisons: Iterable[Comparison], *, source: str = "compare") -> int:
        """Add decided pairs of the chat or of an evaluation; how many were new. `source`: of those that name none."""
        count = 0
        with writing(self._engine) as connection:
            for raw in chunks(comparisons):
                prompts = settled_prompts(connection, [c.prompt for c in raw])
                chunk = [replace(c, prompt=prompt) for c, prompt in zip(raw, prompts, strict=True)]
                ensure_prompts(connection, prompts)
                users = ensure_users(connection, {c.labeler for c in chunk if c.labeler})
                keyed = {sha256_json([c.source or source, rows.comparison_to_row(c)]): c for c in chunk}
                known = select(ComparisonRow.dedupe_key).where(ComparisonRow.dedupe_key.in_(keyed))
                for key in connection.execute(known).scalars():
                    del keyed[key]
                new = [
                    {
                        "dedupe_key": key,
                        "source": c.source or source,
                        "prompt_id": c.prompt.id,
                        "a_text": c.chosen,
                        "b_text": c.rejected,
                        "outcome": "a",
                        "user_id": users.get(c.labeler),
                        "group_id": c.group or c.prompt.id,
                    }
                    for key, c in keyed.items()
                ]
                insert_rows(connection, ComparisonRow, new)
                count += len(new)
        return count

    def add_feedback(self, feedback: Feedback, *, user: str = "", message_id: str = "") -> str:
        """Write what a user said about an answer; a second opinion on the same message replaces the first. Its id."""
        with writing(self._engine) as connection:
            [prompt] = settled_prompts(connection, [feedback.prompt])
            ensure_prompts(connection, [prompt])
            user_id = ensure_users(connection, [user])[user] if user else None
            message_id = message_id or sha256_json([prompt.id, feedback.completion])
            values = {
                "value": feedback.value,
                "reasons": list(feedback.reasons),
                "comment": feedback.comment,
                "better_answer": feedback.better_answer,
            }
            mine = MessageFeedback.message_id == message_id, MessageFeedback.user_id == user_id
            id = connection.execute(select(MessageFeedback.id).where(*mine)).scalar() if user_id else None
            if id:
                connection.execute(update(MessageFeedback).where(MessageFeedback.id == id).values(**values))
                return str(id)
            id = uuid7()
            named = {"id": id, "message_id": message_id, "prompt_id": prompt.id, "user_id": user_id}
            connection.execute(insert(MessageFeedback).values(**named, completion=feedback.completion, **values))
            return id

    # The queue

    def add_project(
        self,
        name: str,
        *,
        guide_md: str = "",
        overlap: int = 1,
        lease_minutes: int = 45,
        label_schema: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a labeling project, or change the settings of one; tasks queued before keep theirs."""
        with writing(self._engine) as connection:
            project = ensure_project(connection, name)
            values = {"guide_md": guide_md, "overlap": overlap, "lease_minutes": lease_minutes}
            changed = update(LabelProject).where(LabelProject.id == project.id)
            connection.execute(changed.values(**values, label_schema=dict(label_schema or {})))

    def queue_tasks(
        self,
        answers: Iterable[Answers],
        *,
        project: str = DEFAULT_PROJECT,
        round: int = 0,
        overlap: int | None = None,
        priority: int = 0,
    ) -> int:
        """Queue prompts with their K answers for ranking by `overlap` people (None: as the project says).

        Returns: how many tasks were new; queueing the same again adds nothing.
        """
        count = 0
        with writing(self._engine) as connection:
            found = ensure_project(connection, project)
            target = found.overlap if overlap is None else overlap
            for chunk in chunks(answers):
                for prompt, candidates in chunk:
                    queue.check_candidates(prompt, candidates)
                count += len(ensure_tasks(connection, found, chunk, round=round, target=target, priority=priority))
        return count

    def claim(
        self, labeler: str, *, project: str = DEFAULT_PROJECT, round: int | None = None, at: datetime | None = None
    ) -> LabelingTask | None:
        """The labeler's task in hand, or the next in the queue; None when there is none for them."""
        with writing(self._engine) as connection:
            user = ensure_users(connection, [labeler])[labeler]
            return queue.claim(connection, ensure_project(connection, project), user, at=at or now(), round=round)

    def skip(self, assignment_id: str, reason: str = "") -> None:
        """Give a claimed task back for good."""
        with writing(self._engine) as connection:
            queue.skip(connection, assignment_id, reason)

    def submit_ranking(
        self,
        assignment_id: str,
        ranks: Mapping[str, int],
        *,
        labels: Mapping[str, Mapping[str, Label]] | None = None,
        cannot_rank: bool = False,
        comment: str = "",
        active_ms: int | None = None,
        source: str = "ranking",
    ) -> str:
        """Write a labeler's ranking; its id. All candidates are placed or it is refused; see `submission.submit`."""
        with writing(self._engine) as connection:
            what = submission.Submission(
                ranks=ranks,
                labels=labels or {},
                cannot_rank=cannot_rank,
                comment=comment,
                active_ms=active_ms,
                source=source,
            )
            return submission.submit(connection, assignment_id, what, at=now())

    # Out of the store

    def prompts(self, *, split: str = "") -> Iterator[Prompt]:
        """Approved prompts by id."""
        with read_transaction(self._engine) as connection:
            yield from reading.prompts(connection, split=split)

    def demonstrations(self) -> Iterator[Demonstration]:
        """Accepted demonstrations by prompt and author."""
        with read_transaction(self._engine) as connection:
            yield from reading.demonstrations(connection)

    def rankings(self, selection: Selection = EVERYTHING) -> Iterator[Ranking]:
        """Rankings by round, prompt and labeler; those that could not be ranked are left out."""
        with read_transaction(self._engine) as connection:
            yield from reading.rankings(connection, selection)

    def raw_rankings(self, selection: Selection = EVERYTHING) -> Iterator[RawRanking]:
        """Rankings with everything else the labeler said, also where nothing could be ranked."""
        with read_transaction(self._engine) as connection:
            yield from reading.raw_rankings(connection, selection)

    def comparisons(self) -> Iterator[Comparison]:
        """Decided pairs of the chat and of evaluations."""
        with read_transaction(self._engine) as connection:
            yield from reading.comparisons(connection)

    def feedback(self) -> Iterator[Feedback]:
        """What users said about answers."""
        with read_transaction(self._engine) as connection:
            yield from reading.feedback(connection)

    def open_answers(self, *, project: str = DEFAULT_PROJECT, round: int = 0) -> Iterator[Answers]:
        """Prompts with the answers that still wait for a ranking, in the order of the queue."""
        with read_transaction(self._engine) as connection:
            yield from reading.open_answers(connection, project=project, round=round)

    def counts(self) -> dict[str, int]:
        """Rows of every table."""
        with read_transaction(self._engine) as connection:
            tables = Base.metadata.sorted_tables
            return {t.name: int(connection.execute(select(func.count()).select_from(t)).scalar_one()) for t in tables}

    def export_snapshot(
        self,
        kind: Kind,
        folder: Path,
        *,
        selection: Selection = EVERYTHING,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
        better_answers: bool = False,
    ) -> Snapshot:
        """Freeze what the store holds now into `folder`, with a data card, and record kind, filter, rows and hash.

        Args:
            kind: see feedback/exports.py.
            selection: which rankings; without effect on what users of the chat said.
            weights: of comparisons by source, for rm_pairs and dpo.
            better_answers: whether sft also holds what users wrote in place of an answer.
        """
        chosen: dict[str, Any] = {k: v for k in Selection.__dataclass_fields__ if (v := getattr(selection, k))}
        chosen |= {"weights": dict(weights)} if dict(weights) != dict(DEFAULT_WEIGHTS) else {}
        chosen |= {"better_answers": True} if better_answers else {}
        with read_transaction(self._engine) as connection:
            content = exports.content(connection, kind, selection, weights=weights, better_answers=better_answers)
            snapshot = write_snapshot(content, folder, kind=kind, filter=chosen)
        with writing(self._engine) as connection:
            provenance.record_export(connection, snapshot)
        return snapshot

    # Who made what

    def register_model(
        self,
        name: str,
        *,
        kind: str,
        path: str | Path = "",
        parent: str = "",
        reward_model: str = "",
        run: str = "",
        snapshot: Snapshot | None = None,
        round: int = 0,
        sha256: str = "",
    ) -> str:
        """Write where a checkpoint comes from: parent, reward model, run, frozen data and round. Its id."""
        with writing(self._engine) as connection:
            return provenance.register(
                connection,
                name,
                kind=kind,
                path=str(path or name),
                parent=parent,
                reward_model=reward_model,
                run=run,
                snapshot=snapshot,
                round=round,
                sha256=sha256,
            )

    def lineage(self, name: str) -> list[dict[str, Any]]:
        """A checkpoint and its ancestors, newest first: name, kind, round, path, parent, reward model, data hash."""
        with read_transaction(self._engine) as connection:
            return provenance.lineage(connection, name)


def _text_only(demonstration: Demonstration) -> Demonstration:
    """Refuse an answer whose meaning the table of demonstrations can't hold."""
    if demonstration.answer.tool_calls or demonstration.answer.reasoning:
        raise DataError(
            f"the demonstration of prompt {demonstration.prompt.id!r} has tool calls or reasoning",
            hint="the store keeps answers as text; give such demonstrations to `wuya sft` as a file",
        )
    return demonstration
