"""Pure decisions: credits, stream states, what may be written, who is admitted.

Nothing here does input or output, reads a clock or draws a random number; time is an argument.
"""
