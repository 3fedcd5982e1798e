"""Model hubs, Hugging Face and ModelScope: fetch a pinned repository whole and verified, keep it, and upload to one."""
