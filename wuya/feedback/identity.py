"""Who is who in the store: prompts that share an id by accident, and votes whose labeler nobody named.

Every function takes an open connection inside a writing transaction.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, select

from wuya.data.messages import messages_key, plain_messages, plain_tools, prompt_key
from wuya.data.prompt_ids import PromptIds
from wuya.database.labeling_tables import PromptRow
from wuya.files import sha256_json
from wuya.records import Prompt, Ranking

LONGEST_ID = 190
"""Characters of an id from outside that the database keeps; longer ones become a hash."""


def dedupe_key(prompt: Prompt) -> str:
    """SHA-256 of what a prompt is; `prompt_key` is its beginning."""
    plain = plain_messages(prompt.messages)
    return sha256_json({"messages": plain, "tools": plain_tools(prompt.tools)} if prompt.tools else plain)


def settled_prompts(connection: Connection, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts, each under an id that no other prompt of the store has: the id of another one gets a suffix."""
    short = [p if len(p.id) <= LONGEST_ID else replace(p, id=messages_key(p.messages, p.tools)) for p in prompts]
    wanted = sorted({prompt.id for prompt in short})
    ids = PromptIds()
    for start in range(0, len(wanted), 500):
        query = select(PromptRow.id, PromptRow.dedupe_key).where(PromptRow.id.in_(wanted[start : start + 500]))
        for id, key in connection.execute(query):
            ids.keep(id, key[:16])
    return [ids.settled(prompt) for prompt in short]


@dataclass(slots=True)
class UnnamedVotes:
    """Votes without a labeler's name: two on one task are by two people, unless the same file is read again.

    The n-th equal vote of an import is the n-th person in the store who gave it; who isn't there yet is new. So the
    same file adds nothing twice, and neither equal nor opposite votes are lost.
    """

    _seen: Counter[tuple[str, tuple[int, ...]]] = field(default_factory=Counter)

    def labeler(self, task: str, ranks: tuple[int, ...], known: Mapping[str, tuple[int, ...]]) -> str:
        """The name to write the vote under: "", "unnamed 2", "unnamed 3", ...

        Args:
            known: name -> ranks of every vote on the task so far.
        """
        votes = {name: given for name, given in known.items() if is_unnamed(name)}
        nth = self._seen[task, ranks]
        self._seen[task, ranks] += 1
        same = sorted((name for name, given in votes.items() if given == ranks), key=_number)
        if nth < len(same):
            return same[nth]
        return next(name for name in map(_name, range(1, len(votes) + 2)) if name not in votes)


def named_apart(rankings: Iterable[Ranking]) -> Iterator[Ranking]:
    """The rankings, those of nobody named apart where several are about one prompt: they may contradict each other."""
    taken: dict[tuple[str, int], set[str]] = {}
    for ranking in rankings:
        if not is_unnamed(ranking.labeler):
            yield ranking
            continue
        names = taken.setdefault((prompt_key(ranking.prompt), ranking.round), set())
        name = ranking.labeler
        if name in names:
            name = next(free for free in map(_name, range(1, len(names) + 2)) if free not in names)
        names.add(name)
        yield replace(ranking, labeler=name)


def is_unnamed(name: str) -> bool:
    """Whether this is a name that `UnnamedVotes` gives."""
    return name == "" or (name.startswith("unnamed ") and name.removeprefix("unnamed ").isdigit())


def _name(number: int) -> str:
    return "" if number == 1 else f"unnamed {number}"


def _number(name: str) -> int:
    return int(name.removeprefix("unnamed ")) if name else 1
