"""Units of the library: eV, Å, fs, K, e. Everything that enters or leaves is converted here and nowhere else.

Values: CODATA 2018 (E. Tiesinga et al., Rev. Mod. Phys. 93, 025010 (2021)).
"""

from __future__ import annotations

HARTREE = 27.211386245988  # eV
BOHR = 0.529177210903  # Å
KCAL_PER_MOL = 0.0433641153087705  # eV; thermochemical calorie, 4.184 J
KJ_PER_MOL = KCAL_PER_MOL / 4.184  # eV
GPA = 1.0 / 160.21766208  # eV/Å³
BOLTZMANN = 8.617333262e-5  # eV/K
FS = 0.09822694788464063  # ASE's unit of time is Å sqrt(u/eV); this is one femtosecond in it

ENERGY = {"eV": 1.0, "meV": 1e-3, "Hartree": HARTREE, "kcal/mol": KCAL_PER_MOL, "kJ/mol": KJ_PER_MOL}
LENGTH = {"Å": 1.0, "Angstrom": 1.0, "Bohr": BOHR, "nm": 10.0}
