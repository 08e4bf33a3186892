"""The service's modules, in Python and in JavaScript, form no circles; an area never reaches into another."""

import ast
import re
from pathlib import Path

from wuya.web.app import AREAS

WEB = Path(__file__).parents[2] / "wuya" / "web"
SCRIPTS = WEB / "static" / "js"
SERVES_ALL = {
    "accounts.auth",  # who asks, and may they
    "accounts.store",  # people, and what an admin chose
    "moderation.moderator",
    "moderation.rules",
    "operations.metrics",
}
"""Modules of an area that the others may use."""
PUT_TOGETHER = {"app", "serve"}
"""What starts the service knows every area."""


def imports(path: Path) -> set[str]:
    """Modules of wuya.web that a file imports, also inside functions; without the prefix."""
    names = {".".join(p.relative_to(WEB).with_suffix("").parts).removesuffix(".__init__") for p in WEB.rglob("*.py")}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wuya.web"):
            inside = (node.module or "").removeprefix("wuya.web").removeprefix(".")
            parts = {f"{inside}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= {part if part in names else inside for part in parts}
    return found - {""}


def python_modules() -> dict[str, set[str]]:
    """Module -> modules it imports."""
    return {
        ".".join(path.relative_to(WEB).with_suffix("").parts): imports(path)
        for path in WEB.rglob("*.py")
        if path.name != "__init__.py"
    }


def scripts() -> dict[str, set[str]]:
    """Script -> scripts it imports when it is loaded (`import()` later is no circle)."""
    graph = {}
    for path in SCRIPTS.rglob("*.js"):
        named = re.findall(r'^(?:import|export)\b[^;]*?from "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        named += re.findall(r'^import "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        graph[str(path.relative_to(SCRIPTS))] = {
            str((path.parent / name).resolve().relative_to(SCRIPTS.resolve())) for name in named
        }
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring; empty if there are none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_a_ring_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_module_imports_itself_through_others() -> None:
    assert not circle(python_modules())


def test_no_script_imports_itself_through_others() -> None:
    graph = scripts()
    assert "dom.js" in graph["chat/explain.js"]
    assert not circle(graph)


def test_areas_are_strangers() -> None:
    for name, imported in python_modules().items():
        area = name.partition(".")[0]
        if area in AREAS:
            others = {other for other in imported if other.partition(".")[0] in AREAS and not other.startswith(area)}
            assert others <= SERVES_ALL, f"{name} needs {sorted(others - SERVES_ALL)}: move it one level up"
        elif name not in PUT_TOGETHER:
            assert not {other for other in imported if other.partition(".")[0] in AREAS} - SERVES_ALL, name
