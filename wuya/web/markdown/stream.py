"""Markdown that grows: only the last, unfinished block is parsed and sent again.

    stream = MarkdownStream()
    stream.update("# Title\n\nSome te")     # Change(keep=0, nodes=[heading, paragraph])
    stream.update("# Title\n\nSome text.")  # Change(keep=1, nodes=[paragraph])

A block is finished when another one begins after it in complete lines. Whatever comes then can't change it: there are
no reference links or raw HTML, and maths never spans a blank line. A property test holds every cut to `render`.
"""

from dataclasses import dataclass, field

from wuya.web.markdown.nodes import Node, blocks_with_lines


@dataclass(frozen=True, slots=True)
class Change:
    """Keep the first `keep` blocks, replace all others by `nodes`."""

    keep: int
    nodes: list[Node]


@dataclass(slots=True)
class MarkdownStream:
    """The blocks of a text that is only ever appended to."""

    finished: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    """Of the part that may still change."""
    _offset: int = 0

    def update(self, text: str) -> Change:
        """Take the text as it is now; what has changed in the drawing."""
        text = text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")  # lines as the parser counts them
        keep = len(self.finished)
        tail = text[self._offset :]
        complete = tail[: tail.rfind("\n") + 1]
        blocks = blocks_with_lines(complete)
        if len(blocks) > 1:
            *done, (_, line) = blocks
            self.finished += [node for node, _ in done]
            self._offset += sum(len(row) + 1 for row in complete.split("\n")[:line])
            tail = text[self._offset :]
        self.nodes = [node for node, _ in blocks_with_lines(tail)]
        return Change(keep, [*self.finished[keep:], *self.nodes])

    @property
    def all(self) -> list[Node]:
        """Every block so far."""
        return [*self.finished, *self.nodes]
