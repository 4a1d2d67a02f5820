"""What is kept on disk: specs, checkpoints, run folders."""
