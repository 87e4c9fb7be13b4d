"""`python -m mocose_hf.study`; see `mocose_hf.study.command`."""

from mocose_hf.distributed import end_process
from mocose_hf.study.command import main

if __name__ == "__main__":
    end_process(main())
