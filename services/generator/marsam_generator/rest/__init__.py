"""HTTP beside gRPC, in the same process and over the same studio: OpenAI's shape for drawing, what a page needs to
know, and the page itself. Nothing is decided here that gRPC would decide otherwise."""
