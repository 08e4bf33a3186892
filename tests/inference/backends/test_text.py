"""What is shown is whole characters, and ends before the first stop string wherever the token borders fall."""

from hypothesis import given, settings
from hypothesis import strategies as st

from wuya.inference.backends.text import TextStream

ALPHABET = st.text(alphabet="ab\u00e9\u68af\U0001f600", max_size=24)


def cuts(data: bytes, borders: list[int]) -> list[bytes]:
    places = sorted({border % (len(data) + 1) for border in borders})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def read(stream: TextStream, parts: list[bytes]) -> tuple[str, list[str]]:
    shown = [stream.push(part) for part in parts if not stream.stopped]
    shown.append(stream.finish())
    return "".join(shown), shown


@settings(max_examples=100, deadline=None)
@given(
    ALPHABET, st.lists(st.integers(0, 99)), st.lists(st.text(alphabet="ab\u00e9", min_size=1, max_size=4), max_size=3)
)
def test_stop_strings_are_found_across_any_borders(text: str, borders: list[int], stop: list[str]) -> None:
    first = min((at for s in stop if (at := text.find(s)) >= 0), default=None)
    stream = TextStream(stop)
    got, _ = read(stream, cuts(text.encode(), borders))
    if not stream.stopped:
        assert got == text and first is None
    else:
        # a stop string that is whole first wins, even if a longer one began before it
        assert first is not None and any(text[len(got) :].startswith(s) for s in stop)
        assert not any(s in got for s in stop)


@settings(max_examples=100, deadline=None)
@given(ALPHABET, st.lists(st.integers(0, 99)))
def test_no_piece_ends_inside_a_character(text: str, borders: list[int]) -> None:
    got, pieces = read(TextStream(), cuts(text.encode(), borders))
    assert got == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_nothing_is_held_back_without_need() -> None:
    stream = TextStream(["<end>"])
    assert stream.push(b"hello <") == "hello "
    assert stream.push(b"b>") == "<b>"
    assert stream.push(b"x<end>y") == "x" and stream.stopped
    assert stream.push(b"more") == "" and stream.finish() == ""


def test_an_unfinished_character_shows_only_at_the_end() -> None:
    stream = TextStream()
    assert stream.push("\u68af".encode()[:2]) == ""
    assert stream.finish() == "\ufffd"
