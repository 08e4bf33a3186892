"""The table of model families in the docs says what is so today."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")


@pytest.mark.filterwarnings("ignore")
def test_the_table_in_the_docs_is_what_trying_gives(tmp_path: Path) -> None:
    from tests.checkpoints.family_table import BEGIN, END, PAGE, table

    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert written == table(tmp_path), "run `python -m tests.checkpoints.family_table`"
