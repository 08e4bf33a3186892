"""The ranking's state and the word diff, in the page: no server, no clicks."""

from typing import Any

import pytest

from tests.web.conftest import LiveServer


@pytest.fixture
def run(live_server: LiveServer, page: Any) -> Any:
    """`run("rankmodel", "({RankModel}) => ...")` in a page of the service, outside of its content security policy."""
    page.set_default_timeout(60_000)
    page.goto(live_server.url + "/static/wuya.svg")  # same origin, nothing else on it

    def call(module: str, body: str) -> Any:
        return page.evaluate(f"() => import('/static/js/label/{module}.js').then({body})")

    return call


def test_rows_become_dense_ranks_and_insertions_make_room(run: Any) -> None:
    body = """({ RankModel }) => {
      const model = new RankModel(["a", "b", "c", "d"]);
      const said = [];
      for (const [id, row] of [["a", 4], ["b", 2], ["c", 2]]) model.place(id, row);
      said.push(model.dense(), model.order(), model.isComplete, model.nextUnplaced("a"));
      model.insert("d", 2);
      said.push(model.dense());
      model.insert("a", 1);
      said.push(model.dense(), model.place("a", 9), model.place("a", -1));
      model.tieUp("d");
      said.push(model.order());
      return said;
    }"""
    dense, order, complete, following, inserted, first, too_far, too_low, tied = run("rankmodel", body)
    assert dense == {"a": 2, "b": 1, "c": 1} and order == "B=C > A" and not complete and following == "d"
    assert inserted == {"d": 1, "b": 2, "c": 2, "a": 3}
    assert first == {"a": 1, "d": 2, "b": 3, "c": 3} and (too_far, too_low) == (False, False)
    assert tied == "A=D > B=C"


def test_fifty_steps_can_be_undone_and_typing_is_one(run: Any) -> None:
    body = """({ RankModel }) => {
      const model = new RankModel(["a", "b"]);
      for (let n = 0; n < 60; n += 1) model.place("a", 1 + (n % 2));
      let steps = 0;
      while (model.undo()) steps += 1;
      const row = model.row("a");
      for (const text of ["h", "he", "hey"]) model.setText("comment", text);
      model.undo();
      return [steps, row, model.state.comment, model.setLabel("a", "x", null)];
    }"""
    assert run("rankmodel", body) == [50, 2, "", False]


def test_an_answer_taken_back_is_null_and_contradictions_need_two_grades(run: Any) -> None:
    body = """({ RankModel }) => {
      const model = new RankModel(["a", "b", "c"]);
      ["a", "b", "c"].forEach((id, at) => model.place(id, at + 1));
      model.setLabel("a", "quality", 3);
      model.setLabel("b", "quality", 4);
      model.setLabel("c", "quality", 6);
      const odd = model.contradictions();
      model.setLabel("c", "quality", null);
      const draft = model.toDraft();
      const other = new RankModel(["a", "b", "c"]);
      other.load({ ...draft, ranks: { ...draft.ranks, gone: 1 } });
      return [odd, model.label("c", "quality"), "c" in model.state.labels, other.order(), other.canUndo];
    }"""
    assert run("rankmodel", body) == [[["a", "c"], ["b", "c"]], None, False, "A > B > C", False]


def test_the_word_diff_loses_no_character(run: Any) -> None:
    pairs = [
        ["The cat sat on the mat.", "The dog sat on a mat, quietly."],
        ["", "something"],
        ["  same  ", "  same  "],
        ["\u68af\u5ea6\u4e0b\u964d\u5f88\u597d\u3002", "\u68af\u5ea6\u4e0a\u5347\u5f88\u597d\u3002"],
        ["a\n\nb\tc\U0001f426", "b c \U0001f426 d\n"],
    ]
    for left, right in pairs:
        body = f"({{ wordDiff }}) => wordDiff({left!r}, {right!r})"
        found = run("diff", body)
        assert "".join(text for _, text in found["left"]) == left
        assert "".join(text for _, text in found["right"]) == right
    assert found["left"] != found["right"]
    same = run("diff", "({ wordDiff }) => wordDiff('The cat sat.', 'The dog sat.').left")
    assert same == [[True, "The"], [False, " cat"], [True, " sat."]]
