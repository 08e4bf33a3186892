"""What the operator's metrics and the ledger of tokens learn of a chat's answers; never whose, and never text."""

import time
from collections.abc import Callable

from wuya.database.base import now
from wuya.web.chat.job import Job
from wuya.web.operations.metrics import Metrics

AddUsage = Callable[..., None]


class Meter:
    """Counts the jobs of a hub."""

    def __init__(self, metrics: Metrics, add_usage: AddUsage) -> None:
        self.metrics, self._add_usage = metrics, add_usage

    def running(self, job: Job) -> None:
        """It has got its slot."""
        self.metrics.queue_seconds.observe(time.monotonic() - job.asked_at)

    def token(self, job: Job) -> None:
        """A step of the engine for this job."""
        at = time.monotonic()
        if job.last_token is None:
            self.metrics.ttft_seconds.observe(at - job.asked_at)
        else:
            self.metrics.inter_token_seconds.observe(at - job.last_token)
        job.last_token = at

    def ended(self, job: Job) -> None:
        """Whatever the end was. It writes to the database: call it in a thread."""
        self.metrics.generations.labels(job.state).inc()
        if job.stopped_by:
            self.metrics.stops.inc()
        read, written = job.prompt_tokens or 0, job.new_tokens
        if read or written:
            self.metrics.tokens.labels("prompt", job.alias).inc(read)
            self.metrics.tokens.labels("completion", job.alias).inc(written)
            self._add_usage(
                day=now().date(), user_id=job.user_id, key_id=None, model=job.alias, prompt_tokens=read,
                completion_tokens=written,
            )  # fmt: skip
