"""What an S3 server, or the way to it, says went wrong: one stated error each, with the remedy."""

import urllib3.exceptions
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from marsam.core.errors import Corrupt, Denied, Exhausted, Expired, MarsamError, Missing, Precondition, Unavailable

NOT_FOUND = ("NoSuchKey", "NoSuchVersion", "ResourceNotFound")
TAKEN = "PreconditionFailed"
CONFLICT = ("ConditionalRequestConflict", "OperationAborted")
RANGE = "InvalidRange"

_WRONG_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired")
_FULL = (
    "EntityTooLarge", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded",
)  # fmt: skip
_LAYOUT = ("XMinioParentIsObject", "XMinioObjectExistsAsDirectory")
_BUSY = (
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "ServerBusy", "XMinioServerNotInitialized",
    "ServerNotInitialized", "TooManyRequests", "OperationTimedOut", "XMinioReadQuorum", "XMinioWriteQuorum",
)  # fmt: skip
_ELSEWHERE = ("AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraint")


class NotSent(Unavailable):
    """There was no connection: the request certainly had no effect."""


def translated(error: Exception, *, what: str, place: str, bucket: str) -> MarsamError:
    """Return the stated error for what `error` says about `what` ("'key'"), in a store described as `place`."""
    if isinstance(error, S3Error):
        return _refused(error, what, place, bucket)
    if isinstance(error, ServerError | InvalidResponseError):
        status = getattr(error, "status_code", getattr(error, "_code", 0))
        if status >= 500 or status == 429:
            return Unavailable(f"{place} answers {status} for {what}", reason="STORE_UNAVAILABLE")
        return Precondition(f"{place} does not answer as an S3 server does: status {status} for {what}",
                            reason="STORE_NOT_S3", remedy="correct MARSAM_S3_ENDPOINT")  # fmt: skip
    if isinstance(error, urllib3.exceptions.HTTPError | OSError):
        return _unreached(error, what, place)
    if isinstance(error, ValueError) and "credentials" in str(error):
        return Precondition(
            f"no credentials for {place}",
            reason="STORE_NO_CREDENTIALS",
            remedy="set MARSAM_S3_ACCESS_KEY and MARSAM_S3_SECRET_KEY, or MARSAM_S3_CREDENTIALS_FILE",
        )
    if isinstance(error, ValueError | MinioException):
        return Precondition(f"{place} cannot be asked for {what}: {error}", reason="STORE_NOT_S3")
    raise error


def _refused(error: S3Error, what: str, place: str, bucket: str) -> MarsamError:
    code, status = str(error.code), int(getattr(error.response, "status", 0) or 0)
    if code in NOT_FOUND:
        return Missing(f"no object {what}", reason="OBJECT_MISSING")
    if code == "NoSuchBucket":
        return Precondition(f"there is no bucket '{bucket}': {place}", reason="STORE_BUCKET_MISSING",
                            remedy="create the bucket, or correct MARSAM_STORE")  # fmt: skip
    if code in _WRONG_KEYS:
        return Denied(
            f"{place} does not accept the credentials ({code})",
            reason="STORE_CREDENTIALS",
            remedy="correct MARSAM_S3_ACCESS_KEY and MARSAM_S3_SECRET_KEY, or the credentials file",
        )
    if code == "RequestTimeTooSkewed":
        return Precondition(f"the clock of this machine and that of {place} differ by too much",
                            reason="STORE_CLOCK_SKEW", remedy="let both take their time from NTP")  # fmt: skip
    if code in _ELSEWHERE:
        return Precondition(
            f"the bucket '{bucket}' is not in this region, or not at this endpoint: {place}",
            reason="STORE_REGION",
            remedy="correct MARSAM_S3_REGION and MARSAM_S3_ENDPOINT",
        )
    if code == RANGE:
        return Expired(f"the range lies outside of {what}", reason="RANGE_OUTSIDE")
    if code in _FULL or status == 507:
        return Exhausted(
            f"no room to write {what}: {place} says {code}",
            reason="STORE_FULL",
            remedy="free space in the bucket, or raise its quota, and try again; nothing was written",
        )
    if code in _LAYOUT:
        return Precondition(f"{what}: a key cannot be an object and a folder at once", reason="KEY_LAYOUT")
    if code in ("BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest"):
        return Corrupt(f"{what} arrived damaged at {place} ({code}); nothing was written", reason="DIGEST_MISMATCH",
                       remedy="send it again")  # fmt: skip
    if code in _BUSY or code in CONFLICT or status >= 500 or status == 429:
        return Unavailable(f"{place} is not able to serve {what} now ({code})", reason="STORE_UNAVAILABLE")
    if status == 403:
        return Denied(f"{place} forbids {what} ({code})", reason="STORE_DENIED",
                      remedy="allow these credentials to get, put, delete and list in the bucket")  # fmt: skip
    return Precondition(f"{place} refuses {what}: {code} ({error.message})", reason="STORE_REFUSED")


def _unreached(error: Exception, what: str, place: str) -> MarsamError:
    cause: BaseException = error
    while isinstance(cause, urllib3.exceptions.MaxRetryError) and cause.reason is not None:
        cause = cause.reason
    if isinstance(cause, urllib3.exceptions.SSLError):
        return Precondition(f"no trusted connection to {place}: {cause}", reason="STORE_TLS",
                            remedy="set MARSAM_S3_CA_FILE to the authority that signed its certificate")  # fmt: skip
    if isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
        why = "it does not answer" if isinstance(cause, urllib3.exceptions.ConnectTimeoutError) else "no connection"
        return NotSent(f"cannot reach {place}: {_why(cause, why)}", reason="STORE_UNREACHABLE",
                       remedy="is it up, and is MARSAM_S3_ENDPOINT its address?")  # fmt: skip
    # A timeout in mid-body comes as a broken connection, with the timeout for its second argument.
    slow = (urllib3.exceptions.TimeoutError, TimeoutError)
    if isinstance(cause, slow) or any(isinstance(below, slow) for below in cause.args):
        return Unavailable(f"{place} did not answer in time for {what}", reason="STORE_SLOW",
                           remedy="is it overloaded, or is something between here and there?")  # fmt: skip
    return Unavailable(f"the connection to {place} broke over {what}: {_why(cause, 'it was closed')}",
                       reason="STORE_UNREACHABLE", remedy="try again; is it up?")  # fmt: skip


def _why(error: BaseException, otherwise: str) -> str:
    """The operating system's own words somewhere below `error`, or `otherwise`."""
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "its name is not known here"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror.lower()
        seen = seen.__cause__ or seen.__context__
    return otherwise
