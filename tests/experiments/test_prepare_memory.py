import runpy
from pathlib import Path

import pytest


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """The full figure, 1 GB of unique text under 1.5 GB, is experiments/prepare_memory.py's; here a tenth of it."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "prepare_memory.py"))
    small = script["measure"](tmp_path, megabytes=20, workers=2)
    large = script["measure"](tmp_path, megabytes=100, workers=2)
    assert small["documents"] * 4 < large["documents"] < small["documents"] * 6
    growth_per_document = (large["peak_rss_megabytes"] - small["peak_rss_megabytes"]) * 1e6 / large["documents"]
    assert large["peak_rss_megabytes"] < 600
    assert growth_per_document < 500  # bytes, half of a document: texts are not held
