"""What models of spins must obey: the contracts of atoms, said of fields on a lattice."""

import pytest
import torch

from covarium import checkpoint
from covarium.analysis.spin_suite import check_spins
from covarium.data.spin_samples import SpinSamples
from covarium.models import MODELS, SpinTransformer, SpinTransformerConfig
from covarium.systems.spin_field import SpinField
from covarium.tasks import EffectiveAction

CONFIGS = {
    "default": SpinTransformerConfig(),
    "linear": SpinTransformerConfig(4, 0),
    "few shells": SpinTransformerConfig(5, 2, 2, 3),
    "one coupling": SpinTransformerConfig(6, 0, 1, 1),
    "two by two": SpinTransformerConfig(2, 3),
    "deep": SpinTransformerConfig(4, 6),
    "published": SpinTransformerConfig(6, 2, 6),
}
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def task(config: SpinTransformerConfig) -> EffectiveAction:
    """Away from the special values of a new model."""
    model, rng = SpinTransformer(config).double(), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return EffectiveAction(model)


def field(config: SpinTransformerConfig, count: int = 3) -> SpinField:
    return SpinField.random(count, config.size, torch.Generator().manual_seed(1))


def test_it_is_an_entry_of_models() -> None:
    assert MODELS["spin_transformer"] == (SpinTransformer, SpinTransformerConfig)


@every
def test_group_the_model_declares(config: SpinTransformerConfig) -> None:
    """The checks of ``covarium check model``, and that they are those of the group."""
    checks = {check.name: check for check in check_spins(task(config), field(config))}
    group = {f"O(3) x lattice {name}" for name in ("log_weight", "spins")}
    assert checks.keys() == group | {"batch = single", "repeat", "float32 against float64"}
    for check in checks.values():
        assert check.passed and (check.level or 0) <= (1e-4 if "float32" in check.name else 1e-12), check


class Lopsided(SpinTransformer):
    """Weighs the shells on one side of each site more: no symmetry of the lattice or of the spins is left."""

    def pair_sums(self, spins: torch.Tensor) -> torch.Tensor:
        return super().pair_sums(spins) + 1e-3 * spins[:, 1, 0, None]


def test_a_broken_symmetry_is_found() -> None:
    broken = EffectiveAction(Lopsided(SpinTransformerConfig(4, 0)).double())
    with torch.no_grad():
        broken.model.J += 0.3
    failed = [check.name for check in check_spins(broken, field(broken.model.config)) if not check.passed]
    assert failed == ["O(3) x lattice log_weight"]


@every
def test_a_batch_is_its_fields(config: SpinTransformerConfig) -> None:
    ask, three = task(config), field(config)
    whole = ask.predict(three)
    single = [ask.predict(SpinField(spins[None], config.size)) for spins in three.spins]
    assert (whole.log_weight - torch.cat([p.log_weight for p in single])).abs().max() < 1e-12
    assert (whole.spins - torch.cat([p.spins for p in single])).abs().max() < 1e-13
    spins = three.spins.clone().requires_grad_()
    ask.model(SpinField(spins, config.size)).energy[1].backward()
    assert spins.grad is not None and spins.grad[[0, 2]].abs().max() == 0 < spins.grad[1].abs().max()


@every
def test_repeats_and_precision(config: SpinTransformerConfig) -> None:
    ask, three = task(config), field(config)
    one, same = ask.predict(three), ask.predict(three)
    assert torch.equal(one.log_weight, same.log_weight)
    single = task(config).float().predict(three.to(dtype=torch.float32))
    assert single.log_weight.dtype == torch.float32
    scale = ask.model(three).pairs.abs().max()
    assert (single.log_weight - one.log_weight).abs().max() < 1e-4 * scale


@every
def test_the_file_gives_the_same_answers(config: SpinTransformerConfig, tmp_path) -> None:
    ask, three = task(config), field(config)
    checkpoint.save(tmp_path / "x.safetensors", ask, {})
    loaded = checkpoint.load(tmp_path / "x.safetensors").task
    assert torch.equal(loaded.predict(three).log_weight, ask.predict(three).log_weight)


@every
def test_every_parameter_is_trained(config: SpinTransformerConfig) -> None:
    ask, three = task(config), field(config, 20)
    batch = SpinSamples(three, torch.zeros(20, dtype=torch.float64)).batch(range(20))
    total, count = ask(batch, None)["action"]
    (total / count).backward()
    for name, parameter in ask.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None and (parameter.grad != 0).all(), name
