"""One table per publisher and model, from published names of tensors to ours."""
