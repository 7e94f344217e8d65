"""Running models in a child process, where a crash or a hang cannot hurt anybody."""
