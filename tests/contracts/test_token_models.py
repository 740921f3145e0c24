"""What every model of tokens must obey; a new entry of MODELS is tested by this file as it stands."""

from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest
import torch
from cases_tokens import CASES, TokenCase, samples, task

from covarium.analysis.equivariance import GROUPS, check_equivariance
from covarium.analysis.token_suite import changes, check_tokens, in_dtype, task_group
from covarium.data.tokens import TokenDataset
from covarium.models import GATrConfig, TransformerConfig
from covarium.systems import TokenModel, TokenOutput, Tokens
from covarium.tasks import TokenRegression

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every
def test_all_checks(case: TokenCase) -> None:
    """The declared group, translations, order of tokens, batches, repeats, float32."""
    found = list(check_tokens(task(case), samples(case)))
    assert {"permutation", "batch = single", "repeat", "float32 against float64"} <= {c.name for c in found}
    for check in found:
        assert check.passed, f"{check.name}: {check.value:.2e} > {check.level:.0e}; {check.note}"
    measured = {c.name for c in found if c.level is None}
    reads_order = any(case.fields.get("rotary", ())) or "axial" in case.fields
    assert ("permutation" in measured) == reads_order
    assert any(name.startswith("O(3)") for name in measured) == (case.model == "transformer")


@pytest.mark.parametrize(("shift", "unit"), [(5e6, 1.0), (0.0, 1e-6), (-5.0, 1e-6)])
def test_checks_far_from_the_origin_and_in_small_units(shift: float, unit: float) -> None:
    """Rounding of turned or shifted positions is no fault of the model."""
    one = task(CASES[0])
    far = [
        replace(s, positions=shift + unit * s.positions, targets=s.targets | {"positions": shift + unit * s.positions})
        for s in samples(CASES[0])
    ]
    one.scaling = replace(one.scaling, length=unit, positions=unit)
    for check in check_tokens(one, far):
        assert check.passed, f"{check.name}: {check.value:.2e} > {check.level:.0e}; {check.note}"


@pytest.mark.parametrize("case", [case for case in CASES if case.centre], ids=lambda case: case.name)
def test_float32_far_from_the_origin(case: TokenCase) -> None:
    near, far = ([s.positions for s in samples(case, shift=shift)] for shift in (0.0, 1e4))
    single = in_dtype(task(case), torch.float32)
    answers = []
    for positions in (near, far):
        data = TokenDataset([replace(s, positions=p) for s, p in zip(samples(case), positions, strict=True)])
        answers.append(single.evaluate(data.batch(range(len(data))).to("cpu", torch.float32).system))
    for name in answers[0]:
        # positions are stored with 2e-12 there
        torch.testing.assert_close(answers[0][name], answers[1][name], rtol=0, atol=1e-5)


@every
def test_protocol(case: TokenCase) -> None:
    one = task(case)
    model = one.model
    assert isinstance(model, TokenModel) and model.system == "tokens"
    assert model.group in GROUPS or model.group == "1"
    names = dict(model.named_parameters())
    assert model.no_weight_decay() <= names.keys()
    data = TokenDataset(samples(case))
    batch = data.batch(range(len(data))).to("cpu", torch.float64)
    output = model(one.scaled(batch.system))
    assert isinstance(output, TokenOutput)
    assert output.vectors.shape == (batch.system.num_tokens, 2, 3) and output.scalars.shape[1] == 1
    sums = one(batch, None)
    assert sums.keys() == {"positions", "vectors", "scalars"}
    sum(total for total, _ in sums.values()).backward()
    silent = {n for n, p in names.items() if p.grad is None or not bool(p.grad.any())}
    # points and planes have no component 1, and none is read from what comes out
    assert silent <= {"linear_in.mvs2s.weight", "linear_out.s2mvs.weight", "linear_out.s2mvs.bias"}, silent


@every
def test_description_and_state_come_back(case: TokenCase) -> None:
    one = task(case)
    again = TokenRegression.from_description(type(one.model)(one.model.config).double(), one.describe()).double()
    again.load_state_dict(one.state_dict())
    data = TokenDataset(samples(case))
    system = data.batch(range(len(data))).to("cpu", torch.float64).system
    a, b = one.eval().predict(system), again.eval().predict(system)
    assert torch.equal(a.positions, b.positions) and torch.equal(a.vectors, b.vectors)


def test_every_value_of_every_switch_is_under_contract() -> None:
    for name, config in (("gatr", GATrConfig), ("transformer", TransformerConfig)):
        cases = [case for case in CASES if case.model == name]
        for field, hint in get_type_hints(config).items():
            allowed = {v for v in get_args(hint) if isinstance(v, str)}
            default = next(f.default for f in fields(config) if f.name == field)
            seen = {case.fields.get(field, default) for case in cases}
            assert allowed <= seen, f"{name}.{field}: no contract case has {allowed - seen}"
            if isinstance(default, bool):
                assert seen == {True, False}, f"{name}.{field}"


def test_projective_variants_are_not_mirror_symmetric_for_tokens() -> None:
    """As declared: SE(3), and the conformal and Euclidean ones E(3)."""
    for case in CASES[:1] + [c for c in CASES if c.name in ("gatr-P", "gatr-iP", "gatr-E", "gatr-C")]:
        one = task(case)
        data = TokenDataset(samples(case))
        system = data.batch(range(len(data))).to("cpu", torch.float64).system
        found = check_equivariance(lambda s, one=one: changes(one, s), system, "E(3)", 4)
        worst = max(d.relative for d in found.values())
        assert (worst < 1e-10) == (task_group(one) == "E(3)"), (case.name, worst)


def test_the_contracts_can_fail() -> None:
    class Tilted(torch.nn.Module):
        """Reads the x axis, the number of tokens in the batch, and their order."""

        system, group = "tokens", "SE(3)"

        def __init__(self, inner: TokenModel) -> None:
            super().__init__()
            self.inner = inner

        def no_weight_decay(self) -> set[str]:
            return set()

        def forward(self, tokens: Tokens, rng: torch.Generator | None = None) -> TokenOutput:
            output = self.inner(tokens, rng)
            order = torch.arange(tokens.num_tokens).to(output.vectors)
            x = tokens.positions[:, 0] + 1e-3 * order
            return output._replace(vectors=output.vectors + 1e-6 * x[:, None, None])

    sound = task(CASES[0])
    broken = TokenRegression(Tilted(sound.model), targets=sound.targets, scaling=sound.scaling, terms=sound.terms)
    failed = {c.name.split()[0] for c in check_tokens(broken, samples(CASES[0])) if not c.passed}
    assert {"SE(3)", "permutation", "batch"} <= failed
