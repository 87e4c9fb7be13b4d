"""`import mocose_hf` loads nothing heavy, and AutoConfig and AutoModel know its models all the same."""

from pathlib import Path

import pytest
from fresh_python import HEAVY, imported_by, run_python

import mocose_hf


def test_importing_the_package_loads_neither_torch_nor_transformers():
    loaded = imported_by("import mocose_hf")
    assert "mocose_hf" in loaded
    assert not {"torch", "transformers", *HEAVY} & loaded


@pytest.mark.slow
def test_the_configuration_loads_nothing_heavy():
    loaded = imported_by("from mocose_hf import MoCoSEConfig")
    assert "transformers" in loaded
    assert not {*HEAVY, "transformers.modeling_utils"} & loaded


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import mocose_hf; from transformers import AutoConfig, AutoModel",
        "from transformers import AutoConfig, AutoModel; import mocose_hf",
        "from mocose_hf.models.loading import load_encoder; from transformers import AutoConfig, AutoModel",
    ],
)
def test_auto_classes_know_the_model_after_the_import(imports):
    code = f"""{imports}
from transformers import AutoModelForPreTraining, BertConfig
small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=50)
config = AutoConfig.for_model("mocose", encoder_config=small)
print(type(config).__name__, type(AutoModel.from_config(config)).__name__)
print(type(AutoModelForPreTraining.from_config(config)).__name__)"""
    assert run_python(code).split() == ["MoCoSEConfig", "MoCoSEModel", "MoCoSEForPreTraining"]


def test_every_public_name_loads():
    for name in mocose_hf.__all__:
        assert getattr(mocose_hf, name) is not None
        assert name in dir(mocose_hf)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mocose_hf.nothing


def test_type_checkers_see_every_public_name():
    source = Path(mocose_hf.__file__).read_text(encoding="utf-8")
    block = source[source.index("if TYPE_CHECKING:") : source.index("_MODULES")]
    for name, module in mocose_hf._MODULES.items():
        assert f"from mocose_hf.{module} import" in block
        assert name in block
