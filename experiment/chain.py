"""Old name of `experiment.steps`."""

from experiment.steps import Plan, Words, command, launch, make_steps, session

__all__ = ["Plan", "Words", "command", "launch", "make_steps", "session"]
