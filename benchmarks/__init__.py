"""Speed and memory, each claim in one file, always as a ratio of two things measured side by side in one process."""
