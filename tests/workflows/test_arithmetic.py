"""What is chosen for a device, and what is refused with its reason."""

import pytest
import torch

from covarium.errors import CovariumError
from covarium.models import MODELS
from covarium.systems import AtomModel, TokenModel
from covarium.workflows.arithmetic import arrange, in_words
from covarium.workflows.device import DTYPES


def model(name: str):
    model_class, config_class = MODELS[name]
    return model_class(config_class(num_layers=1))


class Bare(AtomModel):
    """A model without kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))


@pytest.fixture(autouse=True)
def _precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_on_a_cpu_plain_torch():
    m = model("equiformer_v2")
    arrange(m, "float32")
    assert (m.backend, m.rounding, in_words(m)) == ("torch", "none", "")
    arrange(m, "bf16")
    assert m.rounding == "bf16" and in_words(m) == "products with weights rounded to bf16"


def test_kernels_that_were_asked_for_are_refused_with_the_reason(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(CovariumError, match="not installed|only for cuda"):
        arrange(model("equiformer_v2"), None, "triton")
    with pytest.raises(CovariumError, match="none for this model"):
        arrange(Bare(), None, "triton")


def test_the_interpreter_is_used_only_where_it_is_asked_for(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    m = model("torchmd_et")
    arrange(m, None)
    assert m.backend == "torch"
    arrange(m, None, "triton")
    assert m.backend == "triton" and in_words(m) == "edges by Triton kernels"


def test_tf32_needs_a_cuda_device_and_models_of_tokens_have_neither():
    with pytest.raises(CovariumError, match="tf32 is a mode of CUDA devices"):
        arrange(model("equiformer"), "tf32")
    assert set(DTYPES) == {"float32", "float64", "tf32", "bf16"}
    with pytest.raises(CovariumError, match="for models of atoms"):
        arrange(TokenModel(), "bf16")
