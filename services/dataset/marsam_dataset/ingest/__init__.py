"""From a stream of files to items: received, understood, decoded, stored, one verdict each."""
