"""gRPC: `wire` is what both ends share, `server` what a service runs on. Nothing here knows what a service does."""
