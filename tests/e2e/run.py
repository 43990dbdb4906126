#!/usr/bin/env python3
"""Runs the end-to-end tests. usage: run.py [--list] [--seed N] [--verbose] [NAME|PREFIX...]"""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import pool

if __name__ == "__main__":
    sys.exit(pool.main("e2e", __doc__))
