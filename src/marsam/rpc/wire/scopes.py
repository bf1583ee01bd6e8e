"""The scopes of the API: each method declares the one that its caller's token must hold."""

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from marsam.api.common.v1 import common_pb2
from marsam.core.errors import Internal
from marsam.rpc.wire.retries import services


def scope_of(method: MethodDescriptor) -> str:
    """The scope a method declares; Internal when it declares none, which no service is started with."""
    # The generated stub types the extension by its descriptor, not as an extension of MethodOptions.
    scope: str = method.GetOptions().Extensions[common_pb2.scope]  # type: ignore[index]
    if not scope:
        raise Internal(f"{method.full_name} declares no scope", reason="SCOPE_MISSING")
    return scope


def describe(method: str) -> MethodDescriptor:
    """The descriptor of `/package.Service/Method`."""
    service, _, name = method.removeprefix("/").partition("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]


def known_scopes() -> frozenset[str]:
    """Every scope that some method asks for, with the `family.*` that stand for several, and `*`."""
    single = {scope_of(method) for service in services() for method in service.methods}
    return frozenset({"*", *single, *(scope.partition(".")[0] + ".*" for scope in single)})
