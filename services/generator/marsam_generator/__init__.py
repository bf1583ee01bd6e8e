"""The generator: one base, many adapters, every request in one step loop; and the evaluation."""
