"""Whole experiments: the chain of commands from photos to scores, run one after the other, and the report of what came out."""
