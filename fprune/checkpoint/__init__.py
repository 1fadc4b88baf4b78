"""What a run looks like on disk: records as strict JSON and named tensors, committed whole or not at all."""
