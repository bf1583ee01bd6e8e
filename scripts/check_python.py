"""Refuse an interpreter that Marsam does not support, before an environment is built with it."""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(
        f"Marsam needs Python 3.11 to 3.13; this is {sys.version.split()[0]}. Use: make PYTHON=python3.11 <target>"
    )
