"""The common course of all reading stages: splits, shards, finalizing."""
