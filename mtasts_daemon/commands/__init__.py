"""The verbs of the commands that need more than a few lines, each with its part of the command line."""
