"""The only place that knows torch, diffusers and peft: the warm base and its weights."""
