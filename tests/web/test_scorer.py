"""A reward model as a moderator: the rule fires above its threshold (or below), for questions and for answers."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.inference.naive import sharp_model
from tests.web.chat.conftest import new_chat
from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.models.reward_model import ScalarModel
from wuya.tokenizer.bpe import train_tokenizer
from wuya.web.moderation.moderator import moderator_of
from wuya.web.moderation.scorer import Scorer
from wuya.web.service import Service
from wuya.web.settings import Settings

TEXTS = ("the river runs to the sea", "bread and music")


@pytest.fixture
def checkpoint(settings: Settings) -> Path:
    tokenizer = train_tokenizer([" ".join(TEXTS)], vocab_size=300)
    folder = settings.workspace / "runs" / "rm"
    save_checkpoint(folder, ScalarModel(sharp_model(vocab_size=tokenizer.vocab_size)), tokenizer, recipe="reward")
    return folder


def test_a_reward_model_flags_and_blocks(client: TestClient, service: Service, checkpoint: Path) -> None:
    scorer = Scorer(checkpoint)
    low, high = sorted(TEXTS, key=lambda text: scorer.score([("user", text)]))
    scores = {text: scorer.score([("user", text)]) for text in TEXTS}
    rule = {"name": "judge", "stages": ["input"], "action": "block", "scorer": "runs/rm"}
    rule["threshold"] = sum(scores.values()) / 2
    for below, refused in ((False, high), (True, low)):
        assert client.put("/api/admin/moderation/rules", json={"items": [rule | {"below": below}]}).status_code == 200
        for text in TEXTS:
            chat = new_chat(client)
            answer = client.post(f"/api/conversations/{chat.id}/messages", json={"content": text})
            assert (answer.status_code == 400) is (text == refused)
        tried = client.post("/api/admin/moderation/try", json={"text": refused}).json()
        assert tried["fired"] and tried["score"] == pytest.approx(scores[refused], abs=1e-5)
    events = client.get("/api/admin/moderation/queue").json()["items"]
    assert [event["rule"] for event in events] == ["judge", "judge"]


def test_an_answer_that_the_judge_dislikes_is_hidden(client: TestClient, service: Service, checkpoint: Path) -> None:
    score = Scorer(checkpoint).score
    asked, written = TEXTS
    limit = score([("user", asked), ("assistant", written)])
    rule = {"name": "judge", "stages": ["output"], "action": "block", "scorer": "runs/rm", "threshold": limit + 0.1}
    client.put("/api/admin/moderation/rules", json={"items": [rule | {"below": True}]})
    service.engine.script = written  # type: ignore[attr-defined]
    message = new_chat(client).ask(asked)
    assert (message["hidden"], message["content"], message["finish_reason"]) == (True, "", "content_filter")
    assert not moderator_of(service).blocks_output(written), "word rules alone watch a running answer"
