"""A conversation is a tree: an edited question or another answer is a sibling, nothing is ever overwritten.

A *path* goes from a root to a leaf; the page shows the active one. A root is a first message (editing it gives another
root). Siblings keep the order in which they were made.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from wuya.database.service_tables import ChatMessage


@dataclass(slots=True)
class Tree:
    """Who is whose child in one conversation: ids only, cheap to load whole."""

    parents: dict[str, str | None] = field(default_factory=dict)
    children: dict[str | None, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str | None]]) -> "Tree":
        """A tree of (id, parent id) pairs; siblings come in their order."""
        tree = cls()
        for id, parent in rows:
            tree.parents[id] = parent
            tree.children.setdefault(parent, []).append(id)
        return tree

    def __contains__(self, id: str) -> bool:
        return id in self.parents

    def path(self, leaf: str | None) -> list[str]:
        """Ids from the root down to `leaf`; empty for no leaf."""
        found: list[str] = []
        while leaf is not None and leaf in self.parents:
            found.append(leaf)
            leaf = self.parents[leaf]
        return found[::-1]

    def siblings(self, id: str) -> Sequence[str]:
        """The alternatives at this place, itself included, in the order they were made."""
        return self.children[self.parents[id]]

    def newest_leaf(self, id: str) -> str:
        """Down from a message by the latest child of each."""
        while below := self.children.get(id):
            id = below[-1]
        return id

    def last_leaf(self) -> str | None:
        """Where a conversation without a chosen leaf is shown."""
        roots = self.children.get(None)
        return self.newest_leaf(roots[-1]) if roots else None


def tree_of(connection: Connection, conversation_id: str) -> Tree:
    """The ids of a conversation's messages."""
    query = select(ChatMessage.id, ChatMessage.parent_id).where(ChatMessage.conversation_id == conversation_id)
    return Tree.of((id, parent) for id, parent in connection.execute(query.order_by(ChatMessage.sibling_index)))
