"""What is loaded where, asked of the runtimes themselves: one file for each protocol they speak."""
