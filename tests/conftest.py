"""What every test may rely on."""

import signal

import pytest

SERVED = {"s3", "kubernetes"}
"""What a suite that runs over several kinds starts a server for."""

# A shell that starts a job in the background without job control has it ignore Ctrl-C, and so would everything that the
# tests start: programs here are interrupted on purpose, and must hear it wherever the tests were started from.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a real S3 server or the API of a cluster is slow: seconds until it is up, and a round trip a call."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        kinds = {value for value in (callspec.params.values() if callspec else ()) if isinstance(value, str)}
        if kinds & SERVED or {"seaweed", "rclone"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
