"""Memory that a server's passes free is kept for the next ones."""

import subprocess
import sys

import pytest

from editreward.serving import memory

CODE = """
import resource
import runpy
import sys
import threading

how, path = sys.argv[1:]
if how == "kept":
    assert runpy.run_path(path)["keep_memory"]()


def passes():
    for _ in range(20):
        tensors = [b"x" * 2**21 for _ in range(16)]
        del tensors


before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=passes)  # a batcher's
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how):
    command = [sys.executable, "-I", "-c", CODE, how, memory.__file__]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_a_pass_in_a_thread_takes_its_pages_from_the_one_before():
    assert page_faults("kept") < page_faults("freed") / 4
