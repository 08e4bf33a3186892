"""Prompts that a person must look at before they are used: approved, rejected, or still waiting."""

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import Connection, func, select, update

from wuya.database.labeling_tables import LabelTask, PromptRow
from wuya.errors import DataError
from wuya.feedback.bulk import chunks

PromptState = Literal["new", "approved", "rejected"]


def prompts_in_state(
    connection: Connection, state: PromptState, *, after: str = "", limit: int = 50
) -> list[dict[str, Any]]:
    """Prompts by id with what a person needs to judge them: messages, source, language, split, personal data."""
    columns = (PromptRow.id, PromptRow.messages, PromptRow.source, PromptRow.lang, PromptRow.split, PromptRow.pii_state)
    query = select(*columns).where(PromptRow.state == state, PromptRow.id > after).order_by(PromptRow.id).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def count_waiting(connection: Connection) -> int:
    """Prompts nobody has decided on."""
    return int(connection.execute(select(func.count()).where(PromptRow.state == "new")).scalar_one())


def decide(connection: Connection, ids: Sequence[str], state: PromptState) -> int:
    """Put prompts into a state; how many changed. Rejecting ends their tasks that nobody has started.

    Raises: DataError when a prompt does not exist: nothing is changed then.
    """
    known: set[str] = set()
    for chunk in chunks(list(ids)):
        known |= set(connection.execute(select(PromptRow.id).where(PromptRow.id.in_(chunk))).scalars())
    if missing := sorted(set(ids) - known):
        raise DataError("there is no such prompt", found=", ".join(missing[:3]))
    changed = 0
    for chunk in chunks(sorted(known)):
        here = PromptRow.id.in_(chunk)
        changed += connection.execute(
            update(PromptRow).where(here, PromptRow.state != state).values(state=state)
        ).rowcount
        if state == "rejected":
            idle = LabelTask.state.in_(("open", "paused")) & (LabelTask.n_active == 0) & (LabelTask.n_submitted == 0)
            connection.execute(update(LabelTask).where(LabelTask.prompt_id.in_(chunk), idle).values(state="cancelled"))
    return changed
