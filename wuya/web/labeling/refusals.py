"""What the labeling queue refuses, as HTTP says it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from wuya.errors import DataError
from wuya.feedback.gold import NotQualified
from wuya.feedback.queue import Closed, DraftConflict, LeaseLost, NotThere
from wuya.web.errors import ApiError

T = TypeVar("T")


@contextmanager
def refusals() -> Iterator[None]:
    """What the queue refuses, as HTTP says it."""
    try:
        yield
    except DraftConflict as error:
        extra = {"draft": error.draft, "draft_rev": error.draft_rev}
        raise ApiError(409, "draft_conflict", error.what, extra=extra) from error
    except LeaseLost as error:
        raise ApiError(409, "lease_lost", error.what) from error
    except Closed as error:
        raise ApiError(409, "closed", _words(error)) from error
    except NotQualified as error:
        raise ApiError(403, "not_qualified", error.what, extra={"state": error.state}) from error
    except NotThere as error:
        raise ApiError(404, "not_found", error.what) from error
    except DataError as error:
        raise ApiError(422, "invalid_submission", _words(error)) from error


def _words(error: DataError) -> str:
    return error.what + (f": {error.found}" if error.found else "") + (f". {error.hint}" if error.hint else "")


def done(action: Callable[[], T]) -> T:
    """Run, with refusals in HTTP's words."""
    with refusals():
        return action()
