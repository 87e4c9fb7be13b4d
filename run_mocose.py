#!/usr/bin/env python
"""Train and score a MoCoSE sentence encoder; `mocose train` runs the same command once the package is installed.

One process:        python run_mocose.py --model_name_or_path ENCODER --train_file sentences.txt --output_dir out
Several processes:  torchrun --nproc_per_node 8 run_mocose.py configs/paper-bert-base.yaml --train_file text.txt ...
With DeepSpeed:     accelerate launch --config_file configs/accelerate/zero2.yaml run_mocose.py ...
Scores only:        python run_mocose.py --do_eval --model_name_or_path out --senteval_dir data/senteval \
                        --eval_tasks sts transfer geometry --output_dir scores
Large text:         python run_mocose.py ... --train_file large.txt --streaming --max_steps 100000
Resume:             repeat the command with --resume_from_checkpoint true
"""

from mocose_hf.cli.train import main

if __name__ == "__main__":
    from mocose_hf.parallel.collectives import end_process

    end_process(main())
