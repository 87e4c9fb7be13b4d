"""`python -m mocose_hf.study`; see `mocose_hf.study.cli`."""

import sys

from mocose_hf.study.cli import main

if __name__ == "__main__":
    code = main()
    if "torch" not in sys.modules:  # such as `list`, which has no threads or processes to end
        sys.exit(code)
    from mocose_hf.parallel.collectives import end_process

    end_process(code)
