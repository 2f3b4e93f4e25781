"""What is typed: options and their help. What does the work is imported when a command is called, so that help and a
mistyped option are answered at once."""
