"""What the labeling API takes: closed Pydantic models, limits included."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=262_144)]
Note = Annotated[str, Field(max_length=4000)]
Label = bool | int | float | Annotated[str, Field(max_length=400)] | None
Labels = dict[Annotated[str, Field(max_length=200)], dict[Annotated[str, Field(max_length=64)], Label]]
Ranks = dict[Annotated[str, Field(max_length=200)], Annotated[int, Field(ge=1, le=9, strict=True)]]


class Body(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid")


class NextBody(Body):
    """Ask for work."""

    project: Annotated[str, Field(max_length=200)]


class BeginBody(Body):
    """Consent and what a labeler says about themselves (InstructGPT, appendix B)."""

    consent: Literal[True]
    languages: list[Annotated[str, Field(max_length=20)]] = Field(default=[], max_length=20)
    topics: dict[Annotated[str, Field(max_length=64)], Literal["comfortable", "uncomfortable"]] = {}


class DraftBody(Body):
    """A draft and the revision it was made from."""

    draft: dict[str, Any]
    draft_rev: Annotated[int, Field(ge=0)]


class SkipBody(Body):
    """Why a task is given back."""

    reason: Annotated[str, Field(min_length=1, max_length=400)]


class PreviewBody(Body):
    """A text as it would look, or (`count`) how long it is."""

    text: Text
    count: bool = False


class SubmitBody(Body):
    """One labeler's answer to one task."""

    draft_rev: Annotated[int, Field(ge=0)] | None = None
    schema_version: int | None = None
    cannot_rank: bool = False
    ranks: Ranks = {}
    labels: Labels = {}
    completion: Text = ""
    comment: Note = ""
    active_ms: Annotated[int, Field(ge=0, le=86_400_000)] | None = None
    signals: dict[Annotated[str, Field(max_length=40)], Any] = Field(default={}, max_length=20)


class ProjectBody(Body):
    """Settings of a project; None leaves one as it is."""

    name: Annotated[str, Field(max_length=120)] | None = None
    type: Literal["ranking", "demonstration", "pairwise", "metadata"] | None = None
    guide_md: Text | None = None
    label_schema: dict[str, Any] | None = None
    k_min: Annotated[int, Field(ge=0, le=9)] | None = None
    k_max: Annotated[int, Field(ge=0, le=9)] | None = None
    overlap: int | None = None
    double_rate: float | None = None
    gold_rate: float | None = None
    lease_minutes: int | None = None
    require_fields: list[str] | None = None
    settings: dict[str, Any] | None = None
    state: Literal["open", "paused", "closed"] | None = None
    lang: Annotated[str, Field(max_length=20)] | None = None


class GoldBody(Body):
    """An expert's answer, in the order the answers were sampled."""

    ranks: list[Annotated[int, Field(ge=1, le=9, strict=True)]] = []
    labels: list[dict[str, Label]] = []
    prompt: dict[str, Label] = {}


class TaskBody(Body):
    """A prompt with its answers."""

    prompt: str | list[dict[str, str]]
    candidates: list[str | dict[str, Any]] = Field(default=[], max_length=9)
    id: Annotated[str, Field(max_length=200)] | None = None
    source: str = ""
    author: str = ""
    gold: GoldBody | None = None


class TasksBody(Body):
    """Tasks in bulk: given, or made of approved prompts (demonstration and metadata projects)."""

    project: str
    tasks: list[TaskBody] = Field(default=[], max_length=5000)
    from_prompts: Annotated[int, Field(ge=0, le=100_000)] = 0
    split: Literal["train", "val", "test"] = "train"
    round: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0


class AdjudicateBody(Body):
    """The reviewer's own ranking."""

    ranks: Ranks
    labels: Labels = {}
    comment: Note = ""


class ReviewBody(Body):
    """A reviewer's decision."""

    decision: Literal["accept", "revise", "reject"]
    note: Note = ""


class StandingBody(Body):
    """What a lead decides about a labeler."""

    state: Literal["none", "passed", "paused"]


class PromptsBody(Body):
    """What a lead decides about prompts."""

    ids: list[Annotated[str, Field(max_length=200)]] = Field(min_length=1, max_length=500)
    state: Literal["new", "approved", "rejected"]


class ExportBody(Body):
    """What to freeze."""

    kind: Literal["sft", "rm_rankings", "rm_pairs", "prompts", "feedback", "raw"]
    project: str = ""
    rounds: list[Annotated[int, Field(ge=0, le=1_000_000)]] = []
    labelers: list[str] = []
