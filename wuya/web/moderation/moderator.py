"""What chat and API ask before a model reads a text, while it writes one, and when it is done.

moderator = moderator_of(service)
moderator.check_input(text, user_id=viewer.user_id, message_id=id)    # raises ApiError 400 content_policy_violation
if moderator.blocks_output(text_so_far): ...                          # end it with finish_reason content_filter
moderator.note_output(text, user_id=..., message_id=id)               # at the end: flags go to the queue
"""

import logging
import threading
import time
from pathlib import Path

from wuya.database.connection import reading, writing
from wuya.errors import WuyaError
from wuya.web.errors import ApiError
from wuya.web.moderation import store
from wuya.web.moderation.rules import Rule, Stage, Verdict, WordRules
from wuya.web.operations.metrics import metrics_of
from wuya.web.service import Service

log = logging.getLogger("wuya.web.moderation")
BROKEN_SECONDS = 60.0
"""How long a scorer that failed is left alone."""
RELOAD_SECONDS = 5.0
"""Rules changed by another web process are seen after so long."""


class Moderator:
    """The rules in force. Safe to use from several threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._loaded = -1e9
        self._rules: list[Rule] = []
        self._words = WordRules(())
        self._scorers: dict[str, object] = {}
        self._broken: dict[str, float] = {}
        """When a scorer failed last."""

    def reload(self) -> None:
        """Read the rules again at the next look."""
        self._loaded = -1e9

    def rules(self) -> list[Rule]:
        """Rules that are switched on."""
        self.word_rules()
        return [rule for rule in self._rules if rule.enabled]

    def word_rules(self) -> WordRules:
        """Rules with words, at most a few seconds old."""
        if time.monotonic() - self._loaded > RELOAD_SECONDS:
            with reading(self._service.database) as connection:
                rules = store.rules(connection)
            with self._lock:
                if rules != self._rules:
                    self._rules, self._words = rules, WordRules(rules)
                self._loaded = time.monotonic()
        return self._words

    def check_input(
        self, text: str, *, user_id: str | None = None, message_id: str = "", subject: str = "message"
    ) -> None:
        """Refuse a text that a rule blocks; note one that a rule flags."""
        verdict = self.word_rules().check(text, "input") or self._score(text, "input", "")
        if verdict is None:
            return
        self._note(verdict, "input", subject, message_id, user_id)
        if verdict.rule.action == "block":
            message = "this message breaks a rule of this server"
            raise ApiError(400, "content_policy_violation", message, param="messages")

    def blocks_output(self, text: str) -> bool:
        """Whether what the model has written so far must not be shown. Cheap: words only."""
        verdict = self.word_rules().check(text, "output")
        return verdict is not None and verdict.rule.action == "block"

    def note_output(
        self, text: str, *, prompt: str = "", user_id: str | None = None, message_id: str = "", subject: str = "message"
    ) -> Verdict | None:
        """Look at a finished answer, also with scorers; what fired goes to the queue."""
        verdict = self.word_rules().check(text, "output") or self._score(text, "output", prompt)
        if verdict is not None:
            self._note(verdict, "output", subject, message_id, user_id)
        return verdict

    def look(self, text: str, stage: Stage = "input") -> Verdict | None:
        """What the rules say about a text, noting nothing: for `/v1/moderations` and for trying rules."""
        return self.word_rules().check(text, stage) or self._score(text, stage, "")

    def _note(self, verdict: Verdict, stage: Stage, subject: str, subject_id: str, user_id: str | None) -> None:
        metrics_of(self._service).moderation.labels(stage, verdict.rule.action).inc()
        scores = {} if verdict.score is None else {"score": verdict.score}
        named = {"subject": subject, "subject_id": subject_id, "user_id": user_id, "stage": stage, "scores": scores}
        with writing(self._service.database) as connection:
            store.add_event(connection, rule=verdict.rule.name, action=verdict.rule.action, **named)

    def _score(self, text: str, stage: Stage, prompt: str) -> Verdict | None:
        """Rules with a model."""
        for rule in self._rules:
            if not (rule.enabled and rule.scorer and stage in rule.stages):
                continue
            turns = [("user", text)] if stage == "input" else [("user", prompt or " "), ("assistant", text)]
            score = self._scored(rule, turns)
            if score is None:
                continue
            if (score < rule.threshold) if rule.below else (score > rule.threshold):
                return Verdict(rule, score=score)
        return None

    def _scored(self, rule: Rule, turns: list[tuple[str, str]]) -> float | None:
        """The score of a text; None while the scorer can't be used: one broken rule must not stop everybody's chats."""
        if self._broken.get(rule.scorer, -1e9) > time.monotonic() - BROKEN_SECONDS:
            return None
        try:
            with self._lock:
                return float(self._scorer(rule.scorer).score(turns))  # type: ignore[attr-defined]
        except (WuyaError, ApiError, OSError, RuntimeError) as error:
            self._broken[rule.scorer] = time.monotonic()
            told = {"rule": rule.name, "reason": f"{type(error).__name__}: {error}"[:300]}
            log.error("a moderation rule's scorer can't be used; the rule is passed over for a while", extra=told)
            return None

    def _scorer(self, place: str) -> object:
        if place not in self._scorers:
            from wuya.web.moderation.scorer import Scorer

            self._scorers[place] = Scorer(inside(self._service.settings.workspace, place))
        return self._scorers[place]


def inside(workspace: Path, place: str) -> Path:
    """A checkpoint's path if it is in the workspace, else 422."""
    path = Path(place) if Path(place).is_absolute() else workspace / place
    if len(place) > 300 or "\0" in place:  # longer than any name a disk takes
        raise ApiError(422, "invalid_value", "the scorer must be a checkpoint in the workspace", param="scorer")
    if not path.resolve().is_relative_to(workspace.resolve()) or not path.exists():
        raise ApiError(422, "invalid_value", "the scorer must be a checkpoint in the workspace", param="scorer")
    return path


def check_scorer(workspace: Path, place: str) -> None:
    """Refuse a rule whose scorer could never give a score: a language model, a folder without weights."""
    from wuya.checkpoints.hf_folder import is_scalar, read_config  # with torch, which only rules with scorers need

    try:
        folder = inside(workspace, place)
        model = folder / "model" if (folder / "model").is_dir() else folder
        found = read_config(model)
    except (WuyaError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise ApiError(422, "invalid_value", "the scorer is no checkpoint", param="scorer") from error
    if not is_scalar(found):
        message = "the scorer must be a reward model, and this is a language model"
        raise ApiError(422, "invalid_value", message, param="scorer")


def moderator_of(service: Service) -> Moderator:
    """The service's moderator."""
    if Moderator not in service.parts:
        service.put(Moderator(service))
    return service.get(Moderator)
