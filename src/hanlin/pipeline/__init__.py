"""Recipe to artifacts: plan, run, store, manifests, workers."""
