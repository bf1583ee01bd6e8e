"""The `marsam` command: thin over `marsam.client`."""
