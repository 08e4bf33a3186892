"""What happened to every document of a corpus: counts by stage, source and reason, with examples to look at."""

from collections.abc import Callable
from dataclasses import dataclass, field

EXAMPLES_PER_REASON = 3
EXAMPLE_CHARS = 160


@dataclass(slots=True)
class _Count:
    documents: int = 0
    bytes: int = 0

    def add(self, num_bytes: int, documents: int = 1) -> None:
        self.documents += documents
        self.bytes += num_bytes

    def as_dict(self) -> dict[str, int]:
        return {"documents": self.documents, "bytes": self.bytes}


@dataclass(slots=True)
class Stage:
    """One stage: what entered it from each source, and what it dropped for which reason."""

    name: str
    entered: dict[str, _Count] = field(default_factory=dict)
    dropped: dict[str, dict[str, _Count]] = field(default_factory=dict)
    """reason -> source -> count."""
    cut: _Count = field(default_factory=_Count)
    """Documents that stayed in part, and the bytes they lost."""
    examples: dict[str, list[dict[str, object]]] = field(default_factory=dict)

    def enter(self, source: str, num_bytes: int, documents: int = 1) -> None:
        """Count documents that reach this stage."""
        self.entered.setdefault(source, _Count()).add(num_bytes, documents)

    def drop(
        self, source: str, reason: str, num_bytes: int, example: Callable[..., dict[str, object]], *facts: object
    ) -> None:
        """Count a dropped document; `example(*facts)` is called only for the first ones of each reason."""
        self.dropped.setdefault(reason, {}).setdefault(source, _Count()).add(num_bytes)
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(example(*facts))

    @property
    def documents_in(self) -> int:
        """Documents that reached this stage."""
        return sum(count.documents for count in self.entered.values())

    @property
    def bytes_in(self) -> int:
        """Their bytes."""
        return sum(count.bytes for count in self.entered.values())

    @property
    def documents_dropped(self) -> int:
        """Documents that ended here."""
        return sum(count.documents for by_source in self.dropped.values() for count in by_source.values())

    @property
    def bytes_dropped(self) -> int:
        """Bytes that ended here, those cut out of documents that stayed included."""
        return sum(count.bytes for by_source in self.dropped.values() for count in by_source.values()) + self.cut.bytes

    def as_dict(self) -> dict[str, object]:
        """For the manifest."""
        result: dict[str, object] = {
            "stage": self.name,
            "entered": {source: count.as_dict() for source, count in self.entered.items()},
            "dropped": {
                reason: {
                    "documents": sum(count.documents for count in by_source.values()),
                    "bytes": sum(count.bytes for count in by_source.values()),
                    "by_source": {source: count.as_dict() for source, count in sorted(by_source.items())},
                    "examples": self.examples[reason],
                }
                for reason, by_source in sorted(self.dropped.items())
            },
        }
        if self.cut.documents:
            result["cut"] = self.cut.as_dict()
        return result

    def row(self) -> dict[str, object]:
        """One line of the table for people."""
        reasons = {
            reason: sum(count.documents for count in by_source.values()) for reason, by_source in self.dropped.items()
        }
        main = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
        return {
            "stage": self.name,
            "documents": self.documents_in,
            "MB": round(self.bytes_in / 1e6, 2),
            "dropped": self.documents_dropped,
            "MB dropped": round(self.bytes_dropped / 1e6, 2),
            "main reasons": ", ".join(f"{reason} {count:,}" for reason, count in main),
        }


def excerpt(text: str) -> str:
    """The beginning of a document on one line."""
    line = " ".join(text[: 4 * EXAMPLE_CHARS].split()).encode("utf-8", "replace").decode()
    return line if len(line) <= EXAMPLE_CHARS else line[:EXAMPLE_CHARS] + " ..."
