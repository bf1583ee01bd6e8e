"""Typed manifests, neither stubs nor gRPC: dataset versions, models, aliases, suites and the specs of jobs."""
