"""What each kind of snapshot holds: the store's records as rows, in the forms that trainers read.

| kind | a row | read by |
|---|---|---|
| sft | messages: demonstrations, and better answers if asked for | `wuya sft`, TRL SFTTrainer |
| rm_rankings | prompt, K candidates, ranks, labeler | `wuya reward` |
| rm_pairs | prompt, chosen, rejected, group, source, weight: from everywhere | `wuya reward`, `wuya dpo` |
| dpo | prompt, chosen, rejected as messages | TRL DPOTrainer, RewardTrainer |
| kto | prompt, completion as messages, label | `wuya kto`, TRL KTOTrainer |
| prompts, feedback, raw | prompts; thumbs as said; every ranking with every answer, also NULL | `wuya ppo`, people |
"""

from collections.abc import Iterator, Mapping
from itertools import chain

from sqlalchemy import Connection, select

from wuya.database.labeling_tables import ComparisonRow
from wuya.feedback import reading, rows
from wuya.feedback.bulk import chunks
from wuya.feedback.comparisons import (
    DEFAULT_WEIGHTS,
    comparisons_of_feedback,
    comparisons_of_rankings,
    weighted,
)
from wuya.feedback.reading import Selection
from wuya.feedback.rows import Row
from wuya.feedback.snapshot import Kind
from wuya.records import Comparison, Demonstration, Message, Prompt


def content(
    connection: Connection,
    kind: Kind,
    selection: Selection,
    *,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    better_answers: bool = False,
) -> Iterator[Row]:
    """The rows of one kind, in an order that depends on what was said and not on when.

    Args:
        selection: which rankings; without effect on what users of the chat said.
        weights: by source of comparison, for rm_pairs and dpo; 0 leaves a source out.
        better_answers: whether `sft` also holds what users wrote in place of an answer.
    """
    if kind == "sft":
        written = better_answer_demonstrations(connection) if better_answers else iter(())
        return map(rows.demonstration_to_row, chain(reading.demonstrations(connection), written))
    if kind == "rm_rankings":
        return map(rows.ranking_to_row, reading.rankings(connection, selection))
    if kind == "rm_pairs":
        return map(rows.comparison_to_row, all_comparisons(connection, selection, weights=weights))
    if kind == "dpo":
        return map(trl_pair, all_comparisons(connection, selection, weights=weights))
    if kind == "kto":
        return kto_rows(connection)
    if kind == "prompts":
        return map(rows.prompt_to_row, reading.prompts(connection))
    if kind == "feedback":
        return map(rows.feedback_to_row, reading.feedback(connection))
    return map(reading.raw_to_row, reading.raw_rankings(connection, selection))


def all_comparisons(
    connection: Connection, selection: Selection, *, weights: Mapping[str, float] = DEFAULT_WEIGHTS
) -> Iterator[Comparison]:
    """Comparisons from every source, weighted; prompts are named alike wherever their pairs come from."""
    return weighted(
        chain(
            comparisons_of_rankings(reading.rankings(connection, selection)),
            reading.comparisons(connection),
            comparisons_of_feedback(reading.feedback(connection)),
        ),
        weights,
    )


def better_answer_demonstrations(connection: Connection) -> Iterator[Demonstration]:
    """What users wrote in place of an answer, as demonstrations."""
    for said in reading.feedback(connection):
        if said.better_answer.strip():
            yield Demonstration(said.prompt, Message("assistant", said.better_answer), said.labeler)


def trl_pair(comparison: Comparison) -> Row:
    """TRL's conversational preference form with an explicit prompt; our extras beside it."""
    row = rows.comparison_to_row(comparison)
    for side in ("chosen", "rejected"):
        row[side] = rows.messages_to_json([Message("assistant", row[side])])
    return row


def kto_rows(connection: Connection) -> Iterator[Row]:
    """TRL's unpaired form: {prompt, completion, label}, from what somebody said of a single answer.

    Thumbs; answers written by users (good); both answers of a pair that was called bad. The better answer of a pair is
    *not* called good: the better of two bad answers is bad.
    """
    for said in reading.feedback(connection):
        yield _kto(said.prompt, said.completion, said.value > 0, said.labeler)
        if said.better_answer.strip():
            yield _kto(said.prompt, said.better_answer, True, said.labeler)
    query = select(ComparisonRow.prompt_id, ComparisonRow.a_text, ComparisonRow.b_text)
    bad = query.where(ComparisonRow.outcome == "both_bad", ComparisonRow.source != "eval")
    for chunk in chunks(connection.execute(bad.order_by(ComparisonRow.prompt_id, ComparisonRow.dedupe_key)).all()):
        prompts = reading.prompts_by_id(connection, sorted({row.prompt_id for row in chunk}))
        for row in chunk:
            for text in (row.a_text, row.b_text):
                yield _kto(prompts[row.prompt_id], text, False, "")


def _kto(prompt: Prompt, completion: str, label: bool, labeler: str) -> Row:
    answer = rows.messages_to_json([Message("assistant", completion)])
    return rows.prompt_to_row(prompt) | {"completion": answer, "label": label, "labeler": labeler}
