"""Write an encoder as ONNX, in float32 or with int8 weights, and run such a file with onnxruntime."""

import importlib.util
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from mocose_hf.errors import InputError, install_command
from mocose_hf.models.encoding import MODEL_INPUTS

ONNX_FILE = "onnx/model.onnx"
"""The file that `SentenceTransformer(directory, backend="onnx")` loads."""

INT8_FILE = "onnx/model_int8.onnx"
"""The file with int8 weights; sentence-transformers loads it as `model_kwargs={"file_name": INT8_FILE}`."""

_LARGEST_FILE = 2**31 - 2**20
"""Largest size in bytes of one ONNX file; the weights of larger encoders go into a second file."""


def validate_libraries() -> None:
    """Raise an `InputError` if a library that ONNX needs is not installed."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(library) is None:
            raise InputError(f"ONNX needs {library}, which is not installed; run {install_command('onnx')}.")


@torch.no_grad()
def write_onnx(encoder: PreTrainedModel, path: str | Path) -> None:
    """Write the token states of an encoder as an ONNX file that takes batches of any size and length.

    Args:
        encoder: In float32 on the CPU; its attention becomes the plain one.
        path: The file; its folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder.set_attn_implementation("eager")
    names = [name for name in MODEL_INPUTS if name in inspect.signature(encoder.forward).parameters]
    # A tensor for each input: the exporter makes one input of a tensor that is given twice.
    examples = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    size = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _quiet_exporter():
        torch.onnx.export(
            _TokenStates(encoder, names).eval(),
            examples,
            str(path),
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_shapes=(tuple(axes for _ in names),),  # the one argument `*inputs`
            external_data=size > _LARGEST_FILE,
            verbose=False,
        )


def write_int8(source: str | Path, path: str | Path) -> None:
    """Write an ONNX file with int8 weights; activations are quantised while it runs, so it needs no sample of text.

    Args:
        source: An ONNX file in float32.
        path: The file to write.
    """
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = {"DefaultTensorType": TensorProto.FLOAT}
    with _quiet_exporter():
        quantize_dynamic(str(source), str(path), weight_type=QuantType.QInt8, extra_options=options)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide what the exporters say about themselves, such as torchvision that is not installed."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger()]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch")
            warnings.filterwarnings("ignore", category=FutureWarning)  # of what torch itself calls
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class OnnxEncoder(nn.Module):
    """An ONNX file in the place of an encoder of transformers.

    Args:
        path: The file.
        threads: Number of threads; 0 for onnxruntime's choice.
    """

    def __init__(self, path: str | Path, threads: int = 0):
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [given.name for given in self._session.get_inputs()]
        # Models of transformers take their device from a parameter.
        self.device_marker = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, **inputs: Tensor | None) -> BaseModelOutput:
        """Return `last_hidden_state` (B, L, H) of a padded batch on the CPU."""
        given = {name: inputs[name] for name in self._names if inputs.get(name) is not None}
        if "token_type_ids" in self._names and "token_type_ids" not in given:
            given["token_type_ids"] = torch.zeros_like(given["input_ids"])
        (states,) = self._session.run(["last_hidden_state"], {name: value.numpy() for name, value in given.items()})
        return BaseModelOutput(last_hidden_state=torch.from_numpy(states))


class _TokenStates(nn.Module):
    """The encoder with positional inputs and one output, as the exporter needs it."""

    def __init__(self, encoder: PreTrainedModel, names: list[str]):
        super().__init__()
        self.encoder, self.names = encoder, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.encoder(**dict(zip(self.names, inputs, strict=True))).last_hidden_state
