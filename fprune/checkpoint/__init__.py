"""What is on disk: files of tensors, records as JSON, and the commits that are never half done."""
