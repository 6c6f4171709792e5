"""Whole experiments: the chain of commands from photos to scores, run one after the other, and a report of the results."""
