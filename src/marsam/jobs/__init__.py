"""A job's life in the store: what was asked, numbered transitions, attempts with fencing, signs of life, events."""
