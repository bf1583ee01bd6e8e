"""One file per training objective: pure functions of tensors. The file's name is its key; it ends with `OBJECTIVE`."""
