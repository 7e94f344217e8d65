"""`python -m graphopt` is `graphopt`."""

from __future__ import annotations

import sys

from graphopt.cli.main import main

sys.exit(main())
