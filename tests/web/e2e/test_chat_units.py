"""The page's pure parts, called inside the page: no Node is needed."""

from tests.web.e2e.conftest import Chat

TREE = """async () => {
  const { Thread, dayGroup, newId } = await import("/static/js/chat/tree.js");
  const message = (id, parent_id, role, siblings) => ({ id, parent_id, role, content: id, nodes: [], siblings });
  const thread = new Thread();
  const first = [message("q", null, "user", ["q"]), message("a1", "q", "assistant", ["a1"])];
  thread.load({ id: "c", messages: first, before: null });
  const again = message("a2", "q", "assistant", ["a1", "a2"]);
  thread.accept({ messages: [again], generations: [{ id: "g", message_id: "a2" }] });
  const regenerated = [...thread.path], place = thread.place(thread.get("a1")), busy = thread.busy;
  thread.jobs.clear();
  thread.accept({ message: message("q2", null, "user", ["q", "q2"]), messages: [], generations: [] });
  const edited = [...thread.path];
  thread.prepend([message("older", null, "user", ["older"])], "more");
  const at = (text, hours) => new Date(new Date(2026, 10, 22, 9).getTime() - hours * 3600e3).toISOString();
  const groups = [0, 12, 30, 100, 24 * 20, 24 * 60].map(hours => dayGroup(at("", hours), new Date(2026, 10, 22, 9)));
  return { regenerated, place, busy, edited, path: thread.path, before: thread.before, groups, id: newId() };
}"""


def test_the_tree_of_a_chat_and_the_groups_of_the_list(chat: Chat) -> None:
    chat.open()
    tree = chat.page.evaluate(TREE)
    assert tree["regenerated"] == ["q", "a2"]
    assert tree["busy"] is True
    assert tree["place"] == {"number": 1, "count": 2, "previous": None, "next": "a2"}
    assert tree["edited"] == ["q2"]  # another root: nothing of the old path is below it
    assert (tree["path"], tree["before"]) == (["older", "q2"], "more")
    assert tree["groups"] == ["today", "yesterday", "yesterday", "week", "month", "2026-09"]
    assert len(tree["id"]) == 36
