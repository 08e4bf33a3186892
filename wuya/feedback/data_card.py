"""A page about a snapshot: what it holds, who made it, what it is not (after Gebru et al. 2018, Datasheets).

Written beside the file as KIND-HASH.card.md, from the very rows that were frozen; whoever reads the data can check it.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any

SCRIPTS = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}
"""Scripts whose name is not the first word of their letters' names in Unicode."""
LETTERS = 500
"""Letters at the start of a prompt that tell its script."""
PURPOSE = {
    "sft": "Demonstrations: chats whose last message a person wrote. For supervised fine-tuning.",
    "rm_rankings": "Rankings of K answers to one prompt (rank 1 is best, equal ranks are ties). For reward models.",
    "rm_pairs": "Pairs of a preferred and another answer, from every source, weighted. For reward models and DPO.",
    "dpo": "Pairs of a preferred and another answer as messages, the form of TRL's DPO and reward trainers.",
    "kto": "Single answers called good or bad, the form of TRL's KTO trainer.",
    "prompts": "Prompts without answers.",
    "feedback": "What users of the chat said about answers, as they said it.",
    "raw": "Every ranking with every answer of the labeler; null means shown and not answered.",
}


@dataclass
class CardFacts:
    """Counts over the rows of a snapshot, taken while they are written."""

    rows: int = 0
    prompts: set[str] = field(default_factory=set)
    labelers: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    prompt_sources: Counter[str] = field(default_factory=Counter)
    rounds: Counter[int] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    prompt_chars: list[int] = field(default_factory=list)
    answer_chars: list[int] = field(default_factory=list)
    tied_pairs: int = 0
    pairs: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of any kind."""
        self.rows += 1
        messages = row.get("messages") or row.get("prompt") or []
        text = "\n".join(m["content"] for m in messages)
        self.prompts.add(str(row.get("id", text)))
        self.labelers[str(row.get("labeler", ""))] += 1
        self.prompt_sources[str(row.get("source", ""))] += 1
        self.scripts[script_of(text)] += 1
        self.prompt_chars.append(len(text))
        if source := row.get("ranking_source") or row.get("comparison_source"):
            self.sources[str(source)] += 1
        if "round" in row:
            self.rounds[row["round"]] += 1
        self.answer_chars += [len(answer) for answer in _answers(row)]
        for candidate in row.get("candidates", ()):
            self.models[str(candidate.get("model", "")) or "unknown"] += 1
        if ranks := row.get("ranks"):
            count = len(ranks) * (len(ranks) - 1) // 2
            self.pairs += count
            self.tied_pairs += sum(ranks[i] == ranks[j] for i in range(len(ranks)) for j in range(i))
        elif "chosen" in row:
            self.pairs += 1


def script_of(text: str) -> str:
    """The script of most letters: Latin, Cyrillic, Chinese, ...; Japanese where there are kana."""
    letters = islice((c for c in text if c.isalpha()), LETTERS)
    counts = Counter(unicodedata.name(c, "unknown").partition(" ")[0] for c in letters)
    if not counts:
        return "no letters"
    if counts["HIRAGANA"] or counts["KATAKANA"]:
        return "Japanese"
    [(first, _)] = counts.most_common(1)
    return SCRIPTS.get(first, first.capitalize())


def counted(rows: Iterable[Mapping[str, Any]], facts: CardFacts) -> Iterable[Mapping[str, Any]]:
    """The rows, counted as they pass."""
    for row in rows:
        facts.add(row)
        yield row


def data_card(
    facts: CardFacts, *, kind: str, name: str, sha256: str, schema_version: int, chosen: Mapping[str, Any]
) -> str:
    """The card as Markdown."""
    simulated = facts.sources["simulated"]
    warning = (
        f"\n**{simulated:,} of {facts.rows:,} rows were made by simulated labelers, which are programs.** Every table "
        "made with them must say so.\n"
        if simulated
        else ""
    )
    facts_rows = [
        ("rows", f"{facts.rows:,}"),
        ("prompts", f"{len(facts.prompts):,}"),
        ("pairs", f"{facts.pairs:,}" + (f", of which {facts.tied_pairs:,} ties" if facts.tied_pairs else "")),
        ("labelers", f"{len([name for name in facts.labelers if name]):,}"),
        ("rows of the busiest labeler", f"{max(facts.labelers.values(), default=0) / max(facts.rows, 1):.0%}"),
        ("sources of votes", _counts(facts.sources)),
        ("sources of prompts", _counts(facts.prompt_sources)),
        ("who answered", _counts(facts.models)),
        ("rounds", _counts(facts.rounds)),
        ("script of prompts", _counts(facts.scripts)),
        ("prompt, median characters", _median(facts.prompt_chars)),
        ("answer, median characters", _median(facts.answer_chars)),
        ("selection", ", ".join(f"{k}: {v}" for k, v in chosen.items()) or "everything"),
        ("SHA-256", f"`{sha256}`"),
        ("schema version", str(schema_version)),
    ]
    ties = "kept as equal ranks" if kind in ("rm_rankings", "raw") else "left out"
    body = "\n".join(f"| {what} | {value} |" for what, value in facts_rows if value)
    return f"""# {name}

{PURPOSE[kind]}
{warning}
| | |
| --- | --- |
{body}

## Consent and privacy

Rankings and demonstrations were made by labelers for this purpose. What users of the chat said is here only if they
agreed to the use of that chat; a chat whose owner withdraws is left out of later snapshots, and this file is then to be
deleted. Names of labelers are in the column `labeler`. Prompts imported through the labeling app pass a filter of
patterns, which finds what looks like a number or an address, and not a story that tells who somebody is.

## What it is not

The votes say what these labelers preferred among these answers, not what is true or safe. All pairs of a `group` share
answers: keep them on one side of a split. Ties are {ties}.
The file is frozen: another selection is another file with another hash (`wuya snapshot`).
"""


def _answers(row: Mapping[str, Any]) -> Sequence[str]:
    texts = [row[key] for key in ("chosen", "rejected", "completion") if key in row]
    texts += [candidate["text"] for candidate in row.get("candidates", ())]
    return [text if isinstance(text, str) else text[-1]["content"] for text in texts]


def _counts(counter: Counter[Any], limit: int = 8) -> str:
    named = [(str(name) or "unknown", count) for name, count in counter.most_common(limit)]
    rest = len(counter) - len(named)
    more = f", {rest} more" if rest > 0 else ""
    return ", ".join(f"{name.replace('|', '/')} {count:,}" for name, count in named) + more


def _median(values: Sequence[int]) -> str:
    return f"{median(values):,.0f}" if values else ""
