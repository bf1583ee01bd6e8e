"""Marsam's step engine as a decoupled model of Triton's Python backend.

Bytes in, bytes out, through DLPack: a stub that was built for numpy 1 dies of BYTES tensors and garbles arrays where
numpy 2 is installed. Nothing here prints: the stub's standard output is ASCII, and prompts are not.
"""

import os
import sys

# The stub's interpreter is isolated and ignores PYTHONPATH. Before anything else is imported, numpy included.
sys.path[:0] = filter(None, os.environ.get("MARSAM_SITE", "").split(os.pathsep))

import ctypes
import json

import torch
import triton_python_backend_utils as pb_utils
from marsam_generator.engines.hosted import Host


class TritonPythonModel:
    """What the backend looks for."""

    def initialize(self, args):
        """Build the engine; what it raises refuses the model."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        settings = {key: one["string_value"] for key, one in parameters.items() if key.startswith("MARSAM_")}
        self._host = Host({**os.environ, **settings})

    def execute(self, requests):
        """Hand each request over and return at once; answers come out of turn."""
        for request in requests:
            tensor = torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, "request").to_dlpack())
            asked = ctypes.string_at(tensor.data_ptr(), tensor.numel())
            self._host.ask(asked, _Reply(request.get_response_sender()))

    def finalize(self):
        """Stop."""
        self._host.close()


class _Reply:
    def __init__(self, sender):
        self._sender = sender

    def send(self, event):
        tensor = torch.frombuffer(bytearray(event), dtype=torch.uint8)
        self._sender.send(pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("event", tensor)]))

    def finish(self):
        self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def cancelled(self):
        return self._sender.is_cancelled()
