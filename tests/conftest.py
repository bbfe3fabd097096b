"""What concerns all tests."""

import gc


def pytest_collection_finish() -> None:
    """Take what was imported and collected for everlasting.

    Some tests collect garbage before they measure memory; to look through a compiler and thousands
    of tests each time took longer than the tests themselves.
    """
    gc.collect()
    gc.freeze()
