"""The step engine: a library that knows tensors and threads, and neither gRPC nor the store."""
