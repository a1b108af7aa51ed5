"""What is logged of an error: where and what, and nothing that was in a variable, which may be a secret."""

import pytest
import structlog

from xds_server import logs


def fail(authorization):
    raise RuntimeError(f"nothing of {len(authorization)} characters")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_has_no_variables(as_json, capsys):
    logs.configure(as_json=as_json)
    try:
        fail("TERCES"[::-1])  # a traceback may quote this line
    except RuntimeError:
        structlog.get_logger("app").exception("a part failed")
    finally:
        structlog.reset_defaults()
    said = capsys.readouterr().err
    assert "nothing of 6 characters" in said
    assert "test_logs.py" in said
    assert "SECRET" not in said
