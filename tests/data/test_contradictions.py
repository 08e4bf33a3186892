"""Fields that contradict each other, or say that an answer is a bad one, make a bad row and never a guess."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_messages import ASKED, RECORDS, TOOL_CHAT, WEATHER
from wuya.data.formats import read_demonstrations, read_rankings
from wuya.data.messages import parse_messages
from wuya.files import BadRows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "completion": "bad", "label": 0}, "its `label` is 0"),
        ({"prompt": "q", "completion": "bad", "label": "false"}, "its `label` is 'false'"),
        ({"prompt": "q", "completion": "bad", "value": -1}, "its `value` is -1"),
        ({"messages": TOOL_CHAT, "kto_tag": "false"}, "its `kto_tag` is 'false'"),
        (
            {"instruction": "a", "output": "b", "system": "s", "system_prompt": "t"},
            "`system` and `system_prompt` differ",
        ),
        (
            {"messages": TOOL_CHAT, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            "`messages` and `conversations` differ",
        ),
        ({"messages": TOOL_CHAT, "tools": [WEATHER], "functions": [{"name": "f"}]}, "`tools` and `functions` differ"),
        ({"messages": [ASKED | {"value": "Snow?"}, TOOL_CHAT[3]]}, "`content` and `value` differ"),
        ({"messages": [ASKED | {"from": "gpt"}, TOOL_CHAT[3]]}, "`role` and `from` of message 1 differ"),
        ({"messages": [ASKED, TOOL_CHAT[3] | {"thinking": "rain"}]}, "`reasoning_content` and `thinking` differ"),
    ],
)
def test_a_bad_answer_or_two_names_that_disagree_is_a_bad_row(tmp_path: Path, row: Any, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({"messages": TOOL_CHAT}) + "\n", encoding="utf-8")
    bad = BadRows()
    assert len(list(read_demonstrations(path, bad))) == 1
    assert bad.count == 1 and reason in bad.summary()


def test_two_names_that_agree_and_null_beside_a_name_are_one_message() -> None:
    joined = {"role": None, "content": None, "from": "human", "value": "Rain in Ghent?"}
    assert (
        parse_messages([joined]) == parse_messages([ASKED | {"from": "user", "value": ASKED["content"]}]) == RECORDS[:1]
    )


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        ({"text": "a", "finished": "false"}, "`finished` of a candidate must be true or false"),
        ({"text": "a", "temperature": "0.7"}, "`temperature` of a candidate is not a number"),
    ],
)
def test_a_candidate_with_an_unclear_field_is_a_bad_row(tmp_path: Path, candidate: Any, reason: str) -> None:
    rows = [{"prompt": "q", "candidates": [first, "b"], "ranks": [1, 2]} for first in (candidate, "c")]
    rows.append({"prompt": "q", "chosen": [{"role": "assistant", "content": "x", "weight": 0}], "rejected": "y"})
    path = tmp_path / "rankings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    bad = BadRows()
    assert len(list(read_rankings(path, bad))) == 1
    assert bad.count == 2 and reason in bad.summary() and "judged has the weight 0" in bad.summary()
