"""Job states, as a client reads them."""

from marsam.api.common.v1 import common_pb2

_FINAL = {
    common_pb2.JOB_STATE_SUCCEEDED,
    common_pb2.JOB_STATE_FAILED,
    common_pb2.JOB_STATE_CANCELLED,
}


def is_final(state: int) -> bool:
    """Whether a job has ended. A state this client does not know has not."""
    return state in _FINAL


def state_name(state: int) -> str:
    """`RUNNING`, `FAILED`, …; the number for a state newer than this client."""
    names = common_pb2.JobState.DESCRIPTOR.values_by_number
    return names[state].name.removeprefix("JOB_STATE_") if state in names else str(state)
