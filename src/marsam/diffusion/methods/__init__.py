"""One file per way of tuning. The file's name is its key; it ends with `METHOD`. Importing one imports no torch."""
