"""What every service says alike: points in time and files."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from marsam.api.common.v1 import common_pb2
from marsam.catalog.files import FileRef


def timestamp(at: datetime) -> Timestamp:
    """A point in time."""
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def file_message(file: FileRef) -> common_pb2.FileRef:
    """A file of an artifact, or of a picture."""
    return common_pb2.FileRef(path=file.path, digest=file.digest, size_bytes=file.size, media_type=file.media_type)
