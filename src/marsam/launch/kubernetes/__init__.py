"""Programs as Kubernetes Jobs. The only place that imports the `kubernetes` client."""
