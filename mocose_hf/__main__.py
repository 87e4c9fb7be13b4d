"""`python -m mocose_hf` trains as run_mocose.py does, and so does `accelerate launch -m mocose_hf`."""

from mocose_hf.cli.train import main

if __name__ == "__main__":
    from mocose_hf.parallel.collectives import end_process

    end_process(main(program="python -m mocose_hf"))
