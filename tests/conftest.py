"""What concerns all tests."""

import gc
import os
import signal

from hypothesis import HealthCheck, settings

# The default is the same examples in every run, and nothing that depends on how busy the machine
# is; HYPOTHESIS_PROFILE=explore looks for new examples.
ALWAYS = {
    "database": None,
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("fixed", derandomize=True, max_examples=150, **ALWAYS)
settings.register_profile("explore", derandomize=False, max_examples=400, **ALWAYS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# A shell starts what runs in the background with Ctrl-C ignored, and every process of a test would
# inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Take what was imported and collected for everlasting.

    Some tests collect garbage before they measure memory; to look through a compiler and thousands
    of tests each time took longer than the tests themselves.
    """
    gc.collect()
    gc.freeze()
