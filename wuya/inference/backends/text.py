"""From bytes of tokens to text that may be shown: whole characters only, and never a stop string or a part of one."""

import codecs
from collections.abc import Sequence


class TextStream:
    """Text of one completion as it grows.

    `push` the bytes of each token and show what it returns; once `stopped` is true the text is whole. `finish` gives
    what was held back, when the completion ended for another reason.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped = False
        """A stop string came."""

    def push(self, data: bytes) -> str:
        """More bytes; returns text that no later byte can change."""
        return "" if self.stopped else self._release(self._decoder.decode(data))

    def finish(self) -> str:
        """The end: bytes of an unfinished character become U+FFFD, held text is let go."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        text, self._held = text + self._held, ""
        return text

    def _release(self, new: str) -> str:
        text = self._held + new
        cut = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped, self._held = True, ""
            return text[:cut]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
