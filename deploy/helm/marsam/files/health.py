"""`helm test`: is every service ready? Arguments: http[s]://host:port of each."""

import ssl
import sys
import urllib.request

# Whether the service serves is asked here, not whose certificate it shows.
unverified = ssl.create_default_context()
unverified.check_hostname = False
unverified.verify_mode = ssl.CERT_NONE

failed = False
for address in sys.argv[1:]:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=10, context=unverified) as answer:
            print(f"{address}: {answer.read().decode()}")
    except OSError as error:
        failed = True
        print(f"{address} is not ready: {error}; see its pod's log", file=sys.stderr)
sys.exit(failed)
