#!/usr/bin/env python3
"""Runs stock Linux guests. usage: run.py [--list] [--seed N] [--verbose] [NAME|PREFIX...]
LINUX_BOOTS=N: so many boots (8). LINUX_KILLS=N: so many kills (6). MIGRATIONS=N: so many in each way (1)."""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import pool

if __name__ == "__main__":
    sys.exit(pool.main("linux", __doc__))
