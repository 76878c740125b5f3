"""A gRPC client that knows nothing but an address: services and messages come from server reflection."""

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

PACKAGE = "babelward.v1"


class Client:
    """Calls methods by name with plain dictionaries; answers are protobuf messages."""

    def __init__(self, address: str):
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)
        # All at once: a pool that is still loading cannot be shared between threads.
        for service in self.services():
            if service.startswith(PACKAGE):
                self.pool.FindServiceByName(service)

    def services(self) -> list[str]:
        """Full names of all services that reflection (v1alpha) lists."""
        return sorted(self.database.get_services())

    def services_v1(self) -> list[str]:
        """The same from reflection v1, whose messages have the same encoding."""
        call = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = list(call(iter([request]), timeout=30))
        return sorted(service.name for service in answers[0].list_services_response.service)

    def methods(self, service: str) -> list[str]:
        """`Service/Method` of every method of one of our services."""
        descriptor = self.pool.FindServiceByName(f"{PACKAGE}.{service}")
        return [f"{service}/{method.name}" for method in descriptor.methods]

    def message(self, name: str, fields: dict):
        """A message of our package, built from a dictionary."""
        kind = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        return json_format.ParseDict(fields, kind(), descriptor_pool=self.pool)

    def call(self, path: str, request, timeout: float = 120.0):
        """Calls `Service/Method`. A streamed request is any iterable of dictionaries; a streamed answer comes
        back as grpc's own iterator, which can be cancelled."""
        service, method_name = path.split("/")
        method = self.pool.FindServiceByName(f"{PACKAGE}.{service}").FindMethodByName(method_name)
        inputs = message_factory.GetMessageClass(method.input_type)
        outputs = message_factory.GetMessageClass(method.output_type)

        def build(fields: dict):
            return json_format.ParseDict(fields, inputs(), descriptor_pool=self.pool)

        arity = ("stream" if method.client_streaming else "unary") + "_"
        arity += "stream" if method.server_streaming else "unary"
        callable_ = getattr(self.channel, arity)(
            f"/{PACKAGE}.{service}/{method_name}",
            request_serializer=inputs.SerializeToString,
            response_deserializer=outputs.FromString,
        )
        argument = (build(fields) for fields in request) if method.client_streaming else build(request)
        return callable_(argument, timeout=timeout)


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The google.rpc.Status that an error carries in its trailers."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    raise AssertionError(f"no grpc-status-details-bin with {error.code()}: {error.details()}")


def violations(status) -> dict[str, str]:
    """Field path -> description from a status' BadRequest detail; takes an ItemStatus as well."""
    found = {}
    for detail in status.details:
        if detail.type_url.endswith("/google.rpc.BadRequest"):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            found.update({violation.field: violation.description for violation in bad.field_violations})
    return found


def decoded(client: Client, status) -> dict:
    """A status with its details as plain dictionaries, by what reflection says of their types alone."""
    kind = message_factory.GetMessageClass(client.pool.FindMessageTypeByName("google.rpc.Status"))
    status = kind.FromString(status.SerializeToString())
    return json_format.MessageToDict(status, descriptor_pool=client.pool)


def error_info(status) -> error_details_pb2.ErrorInfo:
    """The status' ErrorInfo detail."""
    for detail in status.details:
        if detail.type_url.endswith("/google.rpc.ErrorInfo"):
            return error_details_pb2.ErrorInfo.FromString(detail.value)
    raise AssertionError(f"no ErrorInfo among {[detail.type_url for detail in status.details]}")
