"""SentencePiece tokenizers of GGUF files (`tokenizer.ggml.model = llama`) as byte-fallback BPE.

llama.cpp joins neighbouring pieces, the pair whose whole has the highest score first. BPE does the same with a list of
merges in the order of the wholes' scores. What no piece spells falls back to its UTF-8 bytes, `<0xE6>` and its kin.
"""

from collections.abc import Mapping, Sequence

from gguf.constants import TokenType
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import Decoder

SPACE = "\u2581"
"""How SentencePiece spells a space."""


def sentencepiece_backend(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], *, space_before: bool
) -> Backend:
    """The `tokenizers` object that encodes as llama.cpp does.

    Args:
        tokens, scores, types: one per id; types are `gguf.TokenType`.
        space_before: a text begins with a space that nobody typed, as Llama 2 has it and Gemma does not.
    """
    used = [id for id, type in enumerate(types) if type != TokenType.UNUSED]
    vocab = {tokens[id]: id for id in used}
    pieces = {tokens[id]: scores[id] for id in used if types[id] in (TokenType.NORMAL, TokenType.USER_DEFINED)}
    unknown = next((tokens[id] for id in used if types[id] == TokenType.UNKNOWN), None)
    backend = Backend(models.BPE(vocab, merges_by_score(pieces, vocab), unk_token=unknown, fuse_unk=True,
                                 byte_fallback=True))  # fmt: skip
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if space_before else spaces
    steps: list[Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if space_before else steps)
    for id in used:  # one by one, in the order of their ids
        if types[id] in (TokenType.CONTROL, TokenType.UNKNOWN):
            backend.add_special_tokens([AddedToken(tokens[id], special=True, normalized=False)])
        elif types[id] == TokenType.USER_DEFINED:
            backend.add_tokens([AddedToken(tokens[id], special=False, normalized=False)])
    return backend


def merges_by_score(pieces: Mapping[str, float], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third, the wholes with the highest scores first."""
    found = []
    for whole, score in pieces.items():
        ways = [(whole[:n], whole[n:]) for n in range(1, len(whole)) if whole[:n] in pieces and whole[n:] in pieces]
        found += [(-score, vocab[left], vocab[right], left, right) for left, right in ways]
    found.sort(key=lambda way: way[0])  # stable: equal scores stay in the order of ids
    return [(left, right) for *_, left, right in found]
