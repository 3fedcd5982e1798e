"""Training in several processes: DDP, FSDP and DeepSpeed ZeRO."""
