"""What can go wrong that a person can cause or repair: printed without a traceback, with what to do next.

Exit codes of the command line: 0 done, 2 the caller's mistake, 3 the machine's or the run's, 130 interrupted,
1 our bug.
"""


class WuyaError(Exception):
    """A problem a person can solve: what is wrong, what was found, what to do (a command if possible)."""

    exit_code = 2

    def __init__(self, what: str, *, found: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        text = self.brief
        return f"{text}\n\nhint: {self.hint}" if self.hint else text

    @property
    def brief(self) -> str:
        """What is wrong and what was found, on one line: the reason of a bad row."""
        return f"{self.what} (found: {self.found})" if self.found else self.what


class ConfigError(WuyaError):
    """A setting is unknown, missing, of the wrong type, or contradicts another."""


class DataError(WuyaError):
    """A data file is missing, empty, malformed, or holds nothing that can be used."""


class CheckpointError(WuyaError):
    """A checkpoint is missing, truncated, foreign, or does not fit the other models of the run."""


class UnsupportedModel(CheckpointError):
    """A checkpoint's architecture, or a field of its config.json, is none that our own decoder computes.

    `load_checkpoint` may still run such a model through `transformers`.
    """


class RunLocked(WuyaError):
    """Another process works on the same run."""


class RunError(WuyaError):
    """The machine or the run failed, not the caller: full disk, no permission, divergence."""

    exit_code = 3


class NotFinite(RunError):
    """A loss, gradient or weight became NaN or infinite; the last good checkpoint was kept."""


class Interrupted(WuyaError):
    """Ctrl-C or SIGTERM after the state was saved; the hint is the line that goes on."""

    exit_code = 130
