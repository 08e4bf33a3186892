import pytest

from wuya import errors


def test_error_reads_what_found_hint() -> None:
    error = errors.DataError("`x` is empty", found="0 rows", hint="add rows: `cat y >> x`")
    assert str(error) == "`x` is empty (found: 0 rows)\n\nhint: add rows: `cat y >> x`"
    assert str(errors.DataError("`x` is empty")) == "`x` is empty"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.DataError, 2),
        (errors.CheckpointError, 2),
        (errors.RunLocked, 2),
        (errors.RunError, 3),
        (errors.NotFinite, 3),
        (errors.Interrupted, 130),
    ],
)
def test_each_kind_has_its_exit_code(kind: type[errors.WuyaError], code: int) -> None:
    assert kind.exit_code == code
