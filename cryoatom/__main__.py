"""`python -m cryoatom`: the program, by the interpreter that is asked."""

from __future__ import annotations

from cryoatom.cli.main import main

if __name__ == "__main__":
    main()
