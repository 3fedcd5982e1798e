"""Training in several processes: DDP, FSDP, DeepSpeed."""
