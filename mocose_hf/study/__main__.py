"""`python -m mocose_hf.study`; see `mocose_hf.study.cli`."""

from mocose_hf.parallel.collectives import end_process
from mocose_hf.study.cli import main

if __name__ == "__main__":
    end_process(main())
