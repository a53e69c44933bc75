"""Keeps the garbage collector from looking at what lives as long as the process."""

import gc


def freeze_startup_objects() -> None:
    """To be called once, when all is loaded: modules, classes and tables are left out of later collections.

    A full collection holds up everything in the process, for as long as there are objects to look at.
    """
    gc.collect()
    gc.freeze()
