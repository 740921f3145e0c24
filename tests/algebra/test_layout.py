"""The two orders of coefficients."""

import pytest

from covarium.algebra.layout import l_primary, m_primary


def test_m_primary_as_documented() -> None:
    expected = [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1), (1, -1), (2, -1), (3, -1)]
    expected += [(2, 2), (3, 2), (2, -2), (3, -2)]
    assert list(m_primary(3, 2)) == expected


@pytest.mark.parametrize("lmax", range(7))
def test_m_primary_is_a_cut_permutation_of_l_primary(lmax: int) -> None:
    for mmax in range(lmax + 1):
        pairs = m_primary(lmax, mmax)
        assert len(set(pairs)) == len(pairs)
        assert set(pairs) == {(l, m) for l, m in l_primary(lmax) if abs(m) <= mmax}


def test_l_primary_index() -> None:
    assert all(l_primary(6)[l * l + l + m] == (l, m) for l in range(7) for m in range(-l, l + 1))
