"""What all data stages that read files share: input splits, shards, deduplication, final files."""
