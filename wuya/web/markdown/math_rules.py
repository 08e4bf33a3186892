r"""Where maths is in a Markdown text: $x$, $$x$$, \(x\), \[x\] in a line, and blocks that open with $$ or \[.

A block ends with its closing mark or at a blank line, so that text still to come never changes a block before the last.
"""

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

MAX_LENGTH = 2000
"""Characters between the marks in a line: a search for the closing one stays short."""
_INLINE = (("$$", "$$", True), ("\\[", "\\]", True), ("\\(", "\\)", False), ("$", "$", False))
_BLOCK = {"$$": "$$", "\\[": "\\]"}


def math_plugin(parser: MarkdownIt) -> None:
    """Add both rules to a parser."""
    parser.inline.ruler.before("escape", "math_inline", _inline_rule)
    parser.block.ruler.before("fence", "math_block", _block_rule, {"alt": ["paragraph", "blockquote", "list"]})


def _inline_rule(state: StateInline, silent: bool) -> bool:
    source, start = state.src, state.pos
    if source[start] not in "$\\":
        return False
    for opening, closing, display in _INLINE:
        if not source.startswith(opening, start):
            continue
        after = start + len(opening)
        end = _end(source, after, closing, min(state.posMax, after + MAX_LENGTH))
        if end < 0:
            return False
        content = source[start + len(opening) : end]
        if closing == "$" and not _is_maths(content, source[end + 1 : end + 2]):
            return False
        if not silent:
            token = state.push("math_inline_display" if display else "math_inline", "", 0)
            token.content = content
        state.pos = end + len(closing)
        return True
    return False


def _end(source: str, start: int, closing: str, limit: int) -> int:
    """Where the closing mark stands (it is not escaped), -1 if nowhere or with nothing before it."""
    position = start
    while (position := source.find(closing, position, limit)) >= 0:
        backslashes = 0
        while source[position - 1 - backslashes] == "\\" and position - 1 - backslashes >= start:
            backslashes += 1
        if backslashes % 2 == 0:
            return position if source[start:position].strip() else -1
        position += 1
    return -1


def _is_maths(content: str, after: str) -> bool:
    """Between single dollars: no space inside the marks, no digit after them. "$5 and $6" is money."""
    return not content[0].isspace() and not content[-1].isspace() and not after.isdigit()


def _block_rule(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    if state.is_code_block(start_line):
        return False
    line = state.src[state.bMarks[start_line] + state.tShift[start_line] : state.eMarks[start_line]].rstrip()
    opening = line[:2]
    if opening not in _BLOCK:
        return False
    closing, rest = _BLOCK[opening], line[2:]
    if closing in rest:
        if not rest.endswith(closing) or closing in rest[: -len(closing)] or not rest[: -len(closing)].strip():
            return False  # text goes on behind the formula: a line of text with maths in it
        content, next_line = rest[: -len(closing)], start_line + 1
    else:
        content, next_line = _lines(state, start_line, end_line, rest, closing)
    if silent:
        return True
    token = state.push("math_block", "", 0)
    token.block, token.content, token.map = True, content, [start_line, next_line]
    state.line = next_line
    return True


def _lines(state: StateBlock, start_line: int, end_line: int, first: str, closing: str) -> tuple[str, int]:
    """Content and end of a block of several lines."""
    content = [first]
    line = start_line + 1
    while line < end_line and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent:
        text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].rstrip()
        line += 1
        if closing in text:
            content.append(text[: text.index(closing)])
            break
        content.append(text)
    return "\n".join(content), line
