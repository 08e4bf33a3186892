"""Code to coloured tokens: [[class, text], ...] with Pygments' short class names, never HTML."""

import re
from functools import lru_cache

MAX_CODE = 200_000
"""Characters; longer code stays plain."""
LANGUAGES = {
    **{name: name for name in (
        "bash c cpp css diff go html ini java javascript json kotlin lua make markdown php powershell python r ruby "
        "rust scala sql swift toml typescript xml yaml julia haskell perl dart docker nginx cmake tex latex csharp "
        "pycon console matlab elixir erlang clojure groovy http").split()},
    "c++": "cpp", "c#": "csharp", "cs": "csharp", "js": "javascript", "jsx": "javascript", "ts": "typescript",
    "tsx": "typescript", "py": "python", "python3": "python", "sh": "bash", "shell": "bash", "zsh": "bash",
    "yml": "yaml", "dockerfile": "docker", "makefile": "make", "rb": "ruby", "rs": "rust", "golang": "go",
    "md": "markdown", "ps1": "powershell", "kt": "kotlin", "hs": "haskell", "pl": "perl", "ex": "elixir",
    "jl": "julia", "cxx": "cpp", "h": "c", "hpp": "cpp", "postgresql": "sql", "sqlite": "sql", "svg": "xml",
    "patch": "diff", "jsonc": "json", "json5": "json", "jsonl": "json", "cfg": "ini", "conf": "ini",
}  # fmt: skip
"""Names people write after the fence -> lexer. A closed list: lexers differ in how they bear hostile input."""
_CLASS = re.compile(r"[a-z][a-z0-9]{0,3}")
CodeToken = list[str]


def language(info: str) -> str:
    """The language a fence names, "" if it is not one of ours."""
    word = info.strip().split()[0].lower() if info.strip() else ""
    return LANGUAGES.get(word.strip("{}.,:"), "")


@lru_cache(maxsize=256)
def code_tokens(code: str, name: str) -> tuple[tuple[str, str], ...]:
    """(class, text) pairs whose texts join to the code."""
    if not name or len(code) > MAX_CODE:
        return (("", code),) if code else ()
    from pygments.lexers import get_lexer_by_name  # a tenth of a second
    from pygments.token import STANDARD_TYPES

    lexer = get_lexer_by_name(name, stripnl=False, stripall=False, ensurenl=False)
    tokens: list[tuple[str, str]] = []
    for kind, text in lexer.get_tokens(code):
        while kind not in STANDARD_TYPES and kind.parent is not None:
            kind = kind.parent
        short = STANDARD_TYPES[kind]
        short = short if _CLASS.fullmatch(short) and short != "w" else ""
        if tokens and tokens[-1][0] == short:
            tokens[-1] = (short, tokens[-1][1] + text)
        elif text:
            tokens.append((short, text))
    if "".join(text for _, text in tokens) != code:  # a lexer that drops or changes characters is not used
        return (("", code),)
    return tuple(tokens)
