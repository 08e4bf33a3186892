"""Token ids of texts in which some control tokens count and others, typed by people, are plain text.

`ControlPattern` finds control tokens in a rendered chat. `MarkedBackend` encodes one in a single pass where cutting at
control tokens would change the ids of the text between them (SentencePiece's spaces, normalised texts): a control token
that counts is spelled as a mark which nobody can type, so its usual spelling is ordinary text.
"""

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from wuya.tokenizer.texts import encode_text

SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*"
"""White space as Unicode and `tokenizers` have it; Python's `\\s` takes four more characters."""


class ControlPattern:
    """Finds control tokens in a text, with the white space that belongs to them."""

    def __init__(self, ids: Mapping[str, int], flags: Mapping[str, Mapping[str, Any]]) -> None:
        """Args:
        ids: spelling -> id of the control tokens.
        flags: `lstrip`, `rstrip` and `single_word` of added tokens, by spelling.
        """
        self.ids = dict(ids)
        longest_first = sorted(filter(None, ids), key=len, reverse=True)
        parts = [_alternative(token, flags.get(token, {})) for token in longest_first]
        self._pattern = re.compile("|".join(parts)) if parts else None

    def split(self, text: str) -> list[str | int]:
        """Strings between control tokens, ids for them; no empty strings."""
        pieces: list[str | int] = []
        end = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = next(group for group in match.groups() if group is not None)
            pieces += [text[end : match.start()], self.ids[token]]
            end = match.end()
        return [piece for piece in (*pieces, text[end:]) if piece != ""]

    def places(self, text: str) -> Iterator[tuple[int, int, int]]:
        """(start, stop, id) of the control tokens."""
        for match in self._pattern.finditer(text) if self._pattern else ():
            number = next(n for n, group in enumerate(match.groups(), start=1) if group is not None)
            yield match.start(number), match.end(number), self.ids[match.group(number)]

    def replace(self, text: str, spelled: Callable[[str], str]) -> str:
        """The text with each control token spelled otherwise; white space stays."""

        def other(match: re.Match[str]) -> str:
            number = next(n for n, group in enumerate(match.groups(), start=1) if group is not None)
            whole, start = match.group(), match.start()
            return (
                whole[: match.start(number) - start] + spelled(match.group(number)) + whole[match.end(number) - start :]
            )

        return self._pattern.sub(other, text) if self._pattern else text


def _alternative(token: str, flags: Mapping[str, Any]) -> str:
    core = f"({re.escape(token)})"
    if flags.get("single_word"):
        core = rf"(?<!\w){core}(?!\w)"
    return (SPACE if flags.get("lstrip") else "") + core + (SPACE if flags.get("rstrip") else "")


class MarkedBackend:
    """A copy of a `tokenizers` object to which only marks are control tokens."""

    def __init__(self, backend: Backend, control: Collection[str]) -> None:
        spec: dict[str, Any] = json.loads(backend.to_str())
        added: list[dict[str, Any]] = spec["added_tokens"]
        nonce = secrets.token_hex(8)
        unmatched = _unmatched(
            backend, [token for token in added if token["normalized"] and token["content"] in control]
        )
        self._mark_of = {
            token["content"]: f"\xa4{nonce}:{token['id']}\xa4"
            for token in added
            if token["content"] in control and token["content"] not in unmatched
        }
        true_ids = {token["content"]: token["id"] for token in added}
        spelled_by_mark = {
            self._mark_of[token["content"]]: token["content"]
            for token in added
            if token["normalized"] and token["content"] in self._mark_of
        }
        self._may_miss = spelled_by_mark if backend.normalizer is not None else {}
        """Marks of normalised tokens, which may be found in one place and not in another, and their spelling."""
        _rename(spec["model"], {name: self._mark_of.get(name, f"\xa4{nonce}-{name}\xa4") for name in control})
        marks = [
            {**token, "content": self._mark_of[token["content"]], "special": True, "single_word": False}
            for token in added
            if token["content"] in self._mark_of
        ]
        spec["added_tokens"] = []
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        self._backend = Backend.from_str(json.dumps(spec))
        for token in [token for token in added if token["content"] not in control] + marks:
            _add(self._backend, token)
        spelled = {self._mark_of.get(name, name): id for name, id in true_ids.items()}
        ids = {self._backend.token_to_id(name): id for name, id in spelled.items()}
        self._true_id = {here: id for here, id in ids.items() if here is not None and here != id}

    def encode(self, text: str) -> list[int]:
        """Ids of a text; its control tokens, if any, are spelled as marks."""
        if any(mark in text for mark in self._may_miss):
            text = self._without_missed(text)
        ids = encode_text(self._backend, text)
        return [self._true_id.get(id, id) for id in ids] if self._true_id else ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` on all cores."""
        batches = self._backend.encode_batch(texts, add_special_tokens=False)
        return [[self._true_id.get(id, id) for id in encoding.ids] for encoding in batches]

    def _without_missed(self, text: str) -> str:
        """The text with marks that are not found where they stand (Llama 2: glued to a word) spelled as plain text."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        marks = {self._backend.token_to_id(mark) for mark in self._may_miss}
        found = [place for id, place in zip(encoding.ids, encoding.offsets, strict=True) if id in marks]

        def kept(match: re.Match[str]) -> str:
            hit = any(start < match.end() and match.start() < stop for start, stop in found)
            return match.group() if hit else self._may_miss[match.group()]

        return re.sub("|".join(map(re.escape, self._may_miss)), kept, text)

    def mark(self, token: str) -> str:
        """How a control token that counts is spelled."""
        return self._mark_of.get(token, token)


def _add(backend: Backend, token: Mapping[str, Any]) -> None:
    flags = {name: bool(token[name]) for name in ("single_word", "lstrip", "rstrip", "normalized")}
    made = AddedToken(token["content"], special=bool(token["special"]), **flags)
    (backend.add_special_tokens if token["special"] else backend.add_tokens)([made])


def _unmatched(backend: Backend, normalised: Sequence[Mapping[str, Any]]) -> set[str]:
    """Normalised added tokens that are never found inside a text: Llama 2's normalizer puts a space before them."""
    if not normalised or backend.normalizer is None:
        return set()
    copy = Backend.from_str(backend.to_str())  # to which special tokens in a text are special
    texts = {token["content"]: copy.encode(f"a {token['content']} a", add_special_tokens=False) for token in normalised}
    return {token["content"] for token in normalised if token["id"] not in texts[token["content"]].ids}


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Respell tokens in a vocabulary, ids unchanged, so that no text is made of them."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: (token, log-probability) in the order of ids
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
        return
    model["vocab"] = {names.get(token, token): id for token, id in vocab.items()}
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [
            pair for pair in pairs if not any(part in names for part in (pair[0], pair[1], pair[0] + pair[1]))
        ]


class ControlTokens:
    """The control tokens of one tokenizer: found in rendered chats, and text to everything else."""

    def __init__(self, backend: Backend, ids: Mapping[str, int]) -> None:
        flags = {token.content: token for token in backend.get_added_tokens_decoder().values()}
        self._pattern = ControlPattern(
            ids,
            {
                name: {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
                for name, token in flags.items()
            },
        )
        self.needs_marks = bool(ids)
        """Control tokens exist, so texts are encoded by the copy to which their spelling is text."""
        self.split, self.places = self._pattern.split, self._pattern.places
        self._backend, self._ids = backend, ids

    @cached_property
    def _copy(self) -> MarkedBackend:
        return MarkedBackend(self._backend, self._ids)

    def marked(self, text: str) -> str:
        """A rendered text with the control tokens in it spelled as marks."""
        return self._pattern.replace(text, self._copy.mark)

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which only marks are control tokens."""
        return self._copy.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` on all cores."""
        return self._copy.encode_batch(texts)
