"""Notation of irreps, and their products."""

import pytest

from covarium.algebra.irreps import SCALAR, Irrep, Irreps
from covarium.errors import CovariumError


def test_read_and_written() -> None:
    irreps = Irreps.parse("8x0e + 4x0o+2x1o+1x3e")
    assert str(irreps) == "8x0e+4x0o+2x1o+1x3e"
    assert list(irreps) == [(8, Irrep(0, 1)), (4, Irrep(0, -1)), (2, Irrep(1, -1)), (1, Irrep(3, 1))]
    assert (len(irreps), irreps.lmax, irreps.channels) == (4, 3, 15)
    assert (irreps.count(SCALAR), irreps.count(Irrep(1, 1))) == (8, 0)
    assert str(irreps.repeated(3)) == "24x0e+12x0o+6x1o+3x3e"
    assert str(irreps.with_scalars(2)) == "10x0e+4x0o+2x1o+1x3e"
    assert str(Irreps.parse("2x1e").with_scalars(3)) == "3x0e+2x1e"


def test_products() -> None:
    assert Irrep(2, -1).times(Irrep(1, -1)) == [Irrep(1, 1), Irrep(2, 1), Irrep(3, 1)]
    assert Irrep(0, -1).times(Irrep(2, 1)) == [Irrep(2, -1)]


@pytest.mark.parametrize("text", ["", "8x0", "0x0e", "0e", "8x0e+", "8*0e", "-1x0e", "8x1s"])
def test_what_is_no_irreps_is_refused(text: str) -> None:
    with pytest.raises(CovariumError, match="is not like 64x1e"):
        Irreps.parse(text)


@pytest.mark.parametrize("text", ["8x0e+4x0e", "4x1e+8x0e", "4x1o+4x1e"])
def test_order_and_repetition_are_refused(text: str) -> None:
    with pytest.raises(CovariumError, match="each irrep once, by ascending degree, e before o"):
        Irreps.parse(text)
