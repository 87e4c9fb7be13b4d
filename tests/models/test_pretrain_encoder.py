import math
import sys

from builders import REPOSITORY, sentences
from transformers import AutoModel, AutoTokenizer

from mocose_hf import MoCoSEForPreTraining

sys.path.insert(0, str(REPOSITORY / "examples"))

import pretrain_encoder


def test_a_pretrained_encoder_guesses_words_and_is_a_start_for_sentence_embeddings(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(sentences(400)) + "\n")
    options = ["--train_file", str(tmp_path / "text.txt"), "--output_dir", str(tmp_path / "encoder")]
    options += ["--vocab_size", "200", "--hidden_size", "64", "--num_hidden_layers", "1", "--max_seq_length", "12"]
    options += ["--learning_rate", "3e-3", "--num_train_epochs", "3", "--per_device_train_batch_size", "16"]
    options += ["--logging_steps", "5", "--use_cpu", "--report_to", "none", "--disable_tqdm", "1"]
    pretrain_encoder.main(options)

    losses = [float(part.split("'")[2]) for part in capsys.readouterr().out.split("{'loss")[1:]]
    assert losses[0] > losses[-1] + 0.3
    assert losses[0] < math.log(200) + 0.5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    encoder = AutoModel.from_pretrained(tmp_path / "encoder")
    assert tokenizer.tokenize("The old CAT") == ["the", "old", "cat"]
    assert tokenizer.model_max_length == 12
    assert encoder.config.num_hidden_layers == 1
    model = MoCoSEForPreTraining.from_encoder_pretrained(str(tmp_path / "encoder"), queue_size=8, queue_init_size=0)
    assert model.encode(["the old cat"], tokenizer).shape == (1, 64)
