"""What every other part stands on: errors, ids, names, records, clock and settings. Standard library only."""
