"""The model that is trained: its layers, attention kernels and losses."""
