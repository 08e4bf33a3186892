"""Which keys of a row are read, which change nothing, and which are named to the user because nobody reads them.

A key that is neither read nor known to be harmless may change what a row means (a context, a weight, a picture), so it
is never dropped in silence: it is named once per file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wuya.console import warn

Wanted = Literal["demonstrations", "prompts", "comparisons", "rankings", "ratings"]

OF_A_PROMPT = frozenset(
    "id prompt_id source author prompt instruction input question messages conversations history system system_prompt "
    "tools functions".split()
)
OF_AN_ANSWER = frozenset("completion output answer labeler weight label kto_tag value".split())
OF_A_RANKING = frozenset(
    "chosen rejected candidates ranks responses ranking labeler round ranking_source comparison_source created_at "
    "flags weight group".split()
)
OF_A_RATING = frozenset("completion label value weight labeler finished reasons comment better_answer".split())
READ: dict[Wanted, frozenset[str]] = {
    "demonstrations": OF_A_PROMPT | OF_AN_ANSWER,
    "prompts": OF_A_PROMPT | OF_AN_ANSWER | OF_A_RANKING,  # answers are left out on purpose
    "comparisons": OF_A_PROMPT | OF_A_RANKING,
    "rankings": OF_A_PROMPT | OF_A_RANKING,
    "ratings": OF_A_PROMPT | OF_A_RATING,
}
HARMLESS = frozenset(
    "_id uuid idx index row row_id key hash sha256 question_id example_id sample_id conversation_id conversation_hash "
    "conv_id dialog_id thread_id message_id parent_id tree_id dataset dataset_name data_source subset split "
    "split_name config task task_name task_type category categories subcategory domain topic tag tags type kind lang "
    "language difficulty url link license model model_name generator chosen_model rejected_model created_at "
    "create_time timestamp time date updated_at annotator annotator_id user user_id worker num_turns turns length "
    "num_tokens score score_chosen score_rejected chosen_score rejected_score chosen_rating rejected_rating rating "
    "quality metadata meta info extra extra_info notes comment title version text raw_lang toxicity redacted "
    "openai_moderation detoxify_moderation avg_rating chosen_avg_rating rejected_avg_rating".split()
)
"""Where a row comes from and what others said about it; `text` beside messages is the same chat rendered."""
OF_A_MESSAGE = frozenset(
    "role from content value tool_calls function_call tool_call_id name reasoning_content reasoning thinking weight "
    "train training loss".split()
)
HARMLESS_IN_A_MESSAGE = frozenset(
    "id uuid message_id parent_id timestamp created_at create_time model model_name finish_reason end_turn refusal "
    "annotations language lang toxic redacted hash country state score rank likes token_ids".split()
)
CHATS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
NOT_TEXT = ("image", "images", "video", "videos", "audio", "audios")


@dataclass(slots=True)
class UnreadKeys:
    """The keys of one file that nobody reads, each with the first line that has it."""

    path: Path | str
    wanted: Wanted
    first_lines: dict[str, int] = field(default_factory=dict)

    def note(self, line: int, row: Mapping[str, Any]) -> None:
        """Remember what in this row is not read."""
        for key in unread_keys(row, self.wanted):
            self.first_lines.setdefault(key, line)

    def tell(self) -> None:
        """Warn, if there are any."""
        if self.first_lines:
            keys = ", ".join(f"{key} (line {line})" for key, line in sorted(self.first_lines.items()))
            warn(f"`{self.path}` has keys that are not read: {keys}. Rename or remove them if they change the rows")


def unread_keys(row: Mapping[str, Any], wanted: Wanted) -> Iterator[str]:
    """Keys of a row, and of its messages as `messages[].key`, that are neither read nor known to be harmless."""
    read = READ[wanted]
    for key, value in row.items():
        if value in (None, "", [], {}):
            continue
        if key in NOT_TEXT or (key not in read and key not in HARMLESS):
            yield key
        elif key == "input" and "instruction" not in row:
            yield key
        elif key in CHATS and isinstance(value, Mapping | Sequence) and not isinstance(value, str):
            yield from _unread_of_messages(key, value)


def _unread_of_messages(key: str, value: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    for message in [value] if isinstance(value, Mapping) else value:
        if isinstance(message, Mapping):
            for name, given in message.items():
                known = name in OF_A_MESSAGE or name in HARMLESS_IN_A_MESSAGE
                if not known and given not in (None, "", [], {}):  # 0 and false may mean "not learned"
                    yield f"{key}[].{name}"
