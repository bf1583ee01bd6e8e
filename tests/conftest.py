"""What every test may rely on."""

import signal

# A shell that starts a job in the background without job control has it ignore Ctrl-C, and so would everything that the
# tests start: programs here are interrupted on purpose, and must hear it wherever the tests were started from.
signal.signal(signal.SIGINT, signal.default_int_handler)
