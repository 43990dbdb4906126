"""The examples of each page, one test for each page."""

import re

import ftlab
import test_docs
from testlib import test


def add(page):
    def run(lab):
        try:
            test_docs.run_examples(page)
        except test_docs.Failed as e:
            raise ftlab.LabError(str(e)) from e
    run.__name__ = "examples_" + re.sub(r"\W", "_", page.removesuffix(".md"))
    run.__doc__ = f"every example of {page} does what it says there"
    test(120, vm=bool(test_docs.on_hosts(page)))(run)


for name in test_docs.EXAMPLES:
    add(name)
