"""`helm test`: does the store keep what everything rests on? From this pod, with the services' settings."""

import asyncio
import os
import sys

from marsam.core.errors import MarsamError
from marsam.store.open import open_store, prove

try:
    blobs = open_store(os.environ["MARSAM_STORE"])
    asyncio.run(prove(blobs))
except MarsamError as error:
    sys.exit(f"{error.reason}: {error.message} ({error.remedy})")
print(f"{blobs.describe()}: keeps what it is given, and never twice")
