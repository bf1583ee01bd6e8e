"""The dataset service: import, check, review, balance and version captioned image sets."""
