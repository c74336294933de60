"""Sandboxes: isolated execution of model-written code. This room is not furnished yet."""
