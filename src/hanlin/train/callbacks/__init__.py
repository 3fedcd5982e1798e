"""What happens between steps: checkpoints, metrics, validation, probes."""
