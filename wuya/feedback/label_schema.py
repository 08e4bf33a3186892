"""What labelers are asked besides the order: InstructGPT's Table 3 for every answer, Table 7 for the prompt.

A *schema* is a list of questions about each answer and a list about the prompt, as JSON, versioned with its project. An
answer is true, false, a number of the scale, one of the choices, or None: shown, but not answered. None is never "no".
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wuya.errors import DataError
from wuya.feedback.bulk import Label

Question = Mapping[str, Any]
NOT_APPLICABLE = "na"
"""The answer of a yes/no question that does not apply (only where the question allows it)."""

CATEGORIES = (
    "generation",
    "open_qa",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "closed_qa",
    "extract",
    "other",
)
"""Use cases of prompts (InstructGPT Table 1)."""

FLAGS = (
    "fails_instruction",
    "inappropriate_for_assistant",
    "hallucination",
    "satisfies_constraint",
    "sexual",
    "violent",
    "encourages_harm",
    "denigrates_class",
    "harmful_advice",
    "opinion",
    "moral_judgment",
)
"""The eleven yes/no questions about an answer (InstructGPT Table 3)."""

ABOUT_ANSWERS: tuple[Question, ...] = (
    {"key": "quality", "kind": "scale", "min": 1, "max": 7},
    *({"key": key, "kind": "bool"} | ({"na": True} if key == "satisfies_constraint" else {}) for key in FLAGS),
)
ABOUT_PROMPT: tuple[Question, ...] = (
    {"key": "category", "kind": "choice", "options": list(CATEGORIES)},
    *(
        {"key": key, "kind": "bool"}
        for key in ("ambiguous", "sensitive", "identity_dependent", "closed_domain", "continuation")
    ),
    {"key": "explicit_constraints", "kind": "bool"},
)
"""What is asked about a prompt (InstructGPT Table 7)."""


def default_schema(type: str) -> dict[str, Any]:
    """The questions of a new project of a type: about answers where there are some, about the prompt otherwise."""
    answers = [] if type == "demonstration" else [dict(q) for q in ABOUT_ANSWERS]
    prompt = [] if type in ("ranking", "pairwise") else [dict(q) for q in ABOUT_PROMPT]
    return {"answers": answers, "prompt": prompt}


def questions(schema: Mapping[str, Any], *, about_prompt: bool) -> Sequence[Question]:
    """The questions about the prompt, or about each answer."""
    found: Sequence[Question] = schema.get("prompt" if about_prompt else "answers", ())
    return found


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise DataError unless a page can show the schema and a table can keep its answers."""
    for part in ("answers", "prompt"):
        asked = schema.get(part, [])
        if not isinstance(asked, list | tuple) or not all(isinstance(question, Mapping) for question in asked):
            raise DataError("a label schema has lists of questions", found=f"{part}: {str(asked)[:80]}")
        keys = [question.get("key") for question in schema.get(part, ())]
        if len(keys) != len(set(keys)) or not all(isinstance(key, str) and key for key in keys):
            raise DataError("each question of a label schema needs a key of its own", found=f"{part}: {keys}")
        for question in schema.get(part, ()):
            kind = question.get("kind")
            if kind not in ("bool", "scale", "choice"):
                raise DataError(f"question {question['key']!r} is of no known kind", found=repr(kind))
            ends = [question.get("min", 1), question.get("max", 7)]
            if kind == "scale" and not (all(type(end) is int for end in ends) and 1 <= ends[0] < ends[1] <= 9):
                raise DataError(f"the scale of {question['key']!r} does not fit the keys 1 to 9", found=str(question))
            options = question.get("options")
            texts = isinstance(options, list) and all(isinstance(option, str) for option in options)
            if kind == "choice" and not (options and texts):
                raise DataError(f"question {question['key']!r} offers no choices", found=str(question))


def complete_labels(
    schema: Mapping[str, Any],
    candidates: Sequence[str],
    labels: Mapping[str, Mapping[str, Label]],
    *,
    required: Sequence[str] = (),
) -> dict[str, dict[str, Label]]:
    """Every question with its answer, by candidate id ("" is the prompt); None where nothing was said.

    Raises: DataError for a question that was not asked, an answer that does not fit, or a required one left open.
    """
    unknown = sorted(set(labels) - {"", *candidates})
    if unknown:
        raise DataError("labels for candidates that are not in the task", found=", ".join(unknown))
    found: dict[str, dict[str, Label]] = {}
    for id in ("", *candidates):
        asked = {question["key"]: question for question in questions(schema, about_prompt=not id)}
        given = labels.get(id, {})
        strangers = sorted(set(given) - asked.keys())
        if strangers:
            raise DataError("answers to questions that were not asked", found=", ".join(strangers))
        for key, value in given.items():
            _check_answer(asked[key], value)
        open_ones = [key for key in asked if key in required and given.get(key) is None]
        if open_ones:
            raise DataError("a required question is not answered", found=", ".join(open_ones), hint="answer it")
        if asked:
            found[id] = {key: given.get(key) for key in asked}
    return found


def _check_answer(question: Question, value: Label) -> None:
    if value is None:
        return
    kind = question["kind"]
    if kind == "bool":
        fits = isinstance(value, bool) or (value == NOT_APPLICABLE and bool(question.get("na")))
    elif kind == "scale":
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = whole and question.get("min", 1) <= value <= question.get("max", 7)
    else:
        fits = value in question["options"]
    if not fits:
        raise DataError(f"this does not answer {question['key']!r}", found=repr(value), hint=str(dict(question)))
