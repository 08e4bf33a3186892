"""Functions of the user's own, named on the command line as `my.py:fn`: rewards, advantages, losses."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wuya.errors import ConfigError


def is_function_spec(text: str) -> bool:
    """Whether `text` names a function (`my.py:fn`, `package.module:fn`) and not a folder."""
    module, colon, name = text.rpartition(":")
    return bool(colon) and name.isidentifier() and (module.endswith(".py") or not Path(text).exists())


def load_function(spec: str) -> Callable[..., Any]:
    """Import the function that `my.py:fn` or `package.module:fn` names. This runs the file: it is code you trust."""
    location, colon, name = spec.rpartition(":")
    if not colon:
        raise ConfigError(f"`{spec}` does not name a function", hint="write `file.py:function`")
    if location.endswith(".py"):
        path = Path(location).resolve()
        if not path.is_file():
            raise ConfigError(f"`{location}` is not a file", hint="write `file.py:function`, with the path to the file")
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        assert module_spec is not None and module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules.setdefault(path.stem, module)  # dataclasses and pickling look their module up by name
        module_spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(location)
        except ImportError as error:
            raise ConfigError(f"cannot import `{location}`: {error}", hint="write `file.py:function`") from error
    function = getattr(module, name, None)
    if not callable(function):
        found = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ConfigError(f"`{location}` has no function `{name}`", found=found)
    return function  # type: ignore[no-any-return]
