"""Published data sets by name: where their files are, what is in them, and how the literature splits them.

A plain table. Addresses, hashes and licences are those of the place named in ``where``, or of the catalogue named in
``licence``; a hash is given only where a source states it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from covarium.data.download import Source
from covarium.errors import CovariumError, nearest

GB, MB = 10**9, 10**6
LARGE = 2 * GB  # from which on a download has to be confirmed
UNKNOWN = "no licence known"

FIGSHARE = "https://ndownloader.figshare.com/files"
GDML = "http://www.quantum-machine.org/gdml"
BOTNET = "https://raw.githubusercontent.com/davkovacs/BOTNet-datasets/main/dataset_3BPA"
DEEPMD = "https://raw.githubusercontent.com/deepmodeling/deepmd-kit/master/examples/water/data"
ZENODO = "https://zenodo.org/records"
META = "https://dl.fbaipublicfiles.com/opencatalystproject/data"

KCAL: Mapping[str, str] = MappingProxyType({"energy": "kcal/mol", "length": "Å"})
EV: Mapping[str, str] = MappingProxyType({"energy": "eV", "length": "Å"})
ATOMIC: Mapping[str, str] = MappingProxyType({"energy": "Hartree", "length": "Å"})

CHMIELA = "S. Chmiela et al., Sci. Adv. 3, e1603015 (2017), doi 10.1126/sciadv.1603015"
OC20 = "L. Chanussot, A. Das, S. Goyal et al., ACS Catal. 11, 6059 (2021), doi 10.1021/acscatal.0c04525"
THREE = "--valid {valid} --test {test}"


@dataclass(frozen=True)
class DataSet:
    """One published data set.

    Attributes:
        name: by which it is asked for.
        what: in a few words.
        frames: structures in the official files, None where no source states it.
        theory: level of the labels.
        licence: of the data, and who says so where it is not their authors.
        citation: to be given with results.
        where: page that describes the files.
        sources: the files.
        layout: key of ``LAYOUTS`` in ``set_layouts``.
        split: how the parts come about.
        units: of the official files.
        keys: label → key in the files; others are found under their usual names.
        keep: values of the files that are kept beside the labels.
        member: of an archive or a choice of the layout, what belongs to this set.
        sizes: of training and validation part, where they are drawn here.
        splits: how many official splits there are to choose from.
        large: more than ``LARGE``, where no source states the size of every file.
        train: part to train on, and the options of ``covarium train`` with the other parts in braces.
    """

    name: str
    what: str
    frames: int | None
    theory: str
    licence: str
    citation: str
    where: str
    sources: tuple[Source, ...]
    layout: str
    split: str
    units: Mapping[str, str] = field(default_factory=lambda: EV)
    keys: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    member: str = ""
    sizes: tuple[int, int] = (0, 0)
    splits: int = 1
    large: bool = False
    train: tuple[str, str] = ("all", "")

    @property
    def size(self) -> int | None:
        """About how many bytes are downloaded, None where that is not known of every file."""
        sizes = [source.size for source in self.sources]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def _rmd17() -> Iterator[DataSet]:
    archive = Source(f"{FIGSHARE}/23950376", "rmd17.tar.bz2", 1 * GB)
    for molecule in ("aspirin", "azobenzene", "benzene", "ethanol", "malonaldehyde", "naphthalene", "paracetamol",
                     "salicylic", "toluene", "uracil"):  # fmt: skip
        yield DataSet(
            name=f"rmd17-{molecule}",
            what=f"revised MD17, {molecule}, 500 K",
            frames=99_988 if molecule == "azobenzene" else 100_000,
            theory="PBE/def2-SVP, very tight SCF, very dense grid",
            licence="CC0-1.0",
            citation="A. S. Christensen, O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), doi "
            f"10.1088/2632-2153/abba6f; structures: {CHMIELA}",
            where="https://figshare.com/articles/dataset/Revised_MD17_dataset_rMD17_/12672038",
            sources=(archive,),
            layout="rmd17",
            split="official: the 1000 training indices of a split, of which the last 50 are for validation, and its "
            "1000 test indices; the authors warn against training on more than 1000 structures",
            units=KCAL,
            keys={"energy": "energies", "forces": "forces"},
            keep=("old_indices", "old_energies"),
            member=molecule,
            sizes=(950, 50),
            splits=5,
            train=("train", THREE),
        )


def _md17() -> Iterator[DataSet]:
    files = {  # file, frames, size
        "aspirin": ("md17_aspirin", 211_762, 193), "benzene": ("md17_benzene2017", 627_983, 209),
        "ethanol": ("md17_ethanol", 555_092, 219), "malonaldehyde": ("md17_malonaldehyde", 993_237, 393),
        "naphthalene": ("md17_naphthalene", 326_250, 254), "salicylic": ("md17_salicylic", 320_231, 223),
        "toluene": ("md17_toluene", 442_790, 289), "uracil": ("md17_uracil", 133_770, None),
        "azobenzene": ("azobenzene_dft", 99_999, None), "paracetamol": ("paracetamol_dft", 106_490, None),
    }  # fmt: skip
    for molecule, (file, frames, size) in files.items():
        yield DataSet(
            name=f"md17-{molecule}",
            what=f"MD17, {molecule}, 500 K",
            frames=frames,
            theory="PBE+vdW-TS",
            licence=f"{UNKNOWN}; the labels of about 100,000 of its structures are part of rMD17 (CC0-1.0)",
            citation=CHMIELA,
            where="http://www.sgdml.org",
            sources=(Source(f"{GDML}/data/npz/{file}.npz", f"{file}.npz", size and size * 2**20),),
            layout="permutation",
            split="of Equiformer and ET: numpy default_rng(1).permutation of the file, 950 training, 50 validation, "
            "the rest for test",
            units=KCAL,
            keys={"energy": "E", "forces": "F"},
            sizes=(950, 50),
            train=("train", f"{THREE} --recipe torchmd-et-md17"),
        )


def _ccsd() -> Iterator[DataSet]:
    files = {
        "aspirin-ccsd": ("aspirin_ccsd", "CCSD/cc-pVDZ", 1500),
        "benzene-ccsd-t": ("benzene_ccsd_t", "CCSD(T)/cc-pVDZ", 1500),
        "ethanol-ccsd-t": ("ethanol_ccsd_t", "CCSD(T)/cc-pVTZ", 2000),
        "malonaldehyde-ccsd-t": ("malonaldehyde_ccsd_t", "CCSD(T)/cc-pVDZ", 1500),
        "toluene-ccsd-t": ("toluene_ccsd_t", "CCSD(T)/cc-pVDZ", 1500),
    }
    for name, (file, theory, frames) in files.items():
        yield DataSet(
            name=f"md17-{name}",
            what=f"{name.partition('-')[0]} with coupled-cluster labels, 500 K",
            frames=frames,
            theory=theory,
            licence="MIT (as catalogued by the ColabFit Exchange)",
            citation="S. Chmiela, H. E. Sauceda, K.-R. Müller, A. Tkatchenko, Nat. Commun. 9, 3887 (2018), doi "
            "10.1038/s41467-018-06169-2",
            where="http://www.sgdml.org",
            sources=(Source(f"{GDML}/data/npz/{file}.zip", f"{file}.zip"),),
            layout="parts",
            split="official files for training and test; the last 50 of training are for validation",
            units=KCAL,
            keys={"energy": "E", "forces": "F"},
            sizes=(0, 50),
            train=("train", THREE),
        )


def _md22() -> Iterator[DataSet]:
    files = {  # file, frames, training structures of the paper
        "ac-ala3-nhme": ("Ac-Ala3-NHMe", 85_109, 6000), "dha": ("DHA", 69_753, 8000),
        "stachyose": ("stachyose", 27_272, 8000), "at-at": ("AT-AT", 20_001, 3000),
        "at-at-cg-cg": ("AT-AT-CG-CG", 10_153, 2000), "buckyball-catcher": ("buckyball-catcher", 6102, 600),
        "double-walled-nanotube": ("double-walled_nanotube", 5032, 800),
    }  # fmt: skip
    for name, (file, frames, size) in files.items():
        held_out = size // 20
        yield DataSet(
            name=f"md22-{name}",
            what=f"MD22, {file.replace('_', ' ')}",
            frames=frames,
            theory="PBE+MBD",
            licence="CC0-1.0 (as catalogued by the ColabFit Exchange)",
            citation="S. Chmiela et al., Sci. Adv. 9, eadf0873 (2023), doi 10.1126/sciadv.adf0873",
            where="http://www.sgdml.org",
            sources=(Source(f"{GDML}/repo/datasets/md22_{file}.npz", f"md22_{file}.npz"),),
            layout="permutation",
            split=f"{size} training structures as in the paper, which publishes their number only: drawn by numpy "
            f"default_rng(1).permutation of the file, {held_out} of them for validation, the rest of the file for test",
            units=KCAL,
            keys={"energy": "E", "forces": "F"},
            sizes=(size - held_out, held_out),
            train=("train", THREE),
        )


def _qm9() -> Iterator[DataSet]:
    yield DataSet(
        name="qm9",
        what="134 k organic molecules, 12 targets",
        frames=133_885,
        theory="B3LYP/6-31G(2df,p)",
        licence="CC0-1.0",
        citation="R. Ramakrishnan, P. O. Dral, M. Rupp, O. A. von Lilienfeld, Sci. Data 1, 140022 (2014), doi "
        "10.1038/sdata.2014.22",
        where="https://doi.org/10.6084/m9.figshare.c.978904",
        sources=(
            Source(f"{FIGSHARE}/3195389", "dsgdb9nsd.xyz.tar.bz2", 86_144_227, "ad1ebd51ee7f5b3a6e32e974e5d54012"),
            Source(f"{FIGSHARE}/3195404", "uncharacterized.txt", 486_752, "a361887bacb427b8a0ce7903d92a53b4"),
            Source(f"{FIGSHARE}/3195395", "atomref.txt", 964, "2d30b2df8329d8fd805c0a4d158a0a0f"),
        ),
        layout="qm9",
        split="of Equiformer and ET: without the 3,054 uncharacterised molecules, numpy default_rng(1).permutation of "
        "the others, 110,000 training, 10,000 validation, the rest for test",
        units=ATOMIC,
        sizes=(110_000, 10_000),
        train=("train", f"{THREE} --recipe torchmd-et-qm9 --property homo"),
    )


def _ani() -> Iterator[DataSet]:
    first = "J. S. Smith, O. Isayev, A. E. Roitberg, Sci. Data 4, 170193 (2017), doi 10.1038/sdata.2017.193"
    yield DataSet(
        name="ani-1",
        what="57 k molecules of up to 8 heavy atoms",
        frames=22_057_374,
        theory="wB97X/6-31G(d)",
        licence=f"{UNKNOWN}; the article is CC BY 4.0",
        citation=first,
        where="https://doi.org/10.6084/m9.figshare.c.3846712",
        sources=(Source(f"{FIGSHARE}/9057631", "ANI1_release.tar.gz"),),
        layout="ani1",
        large=True,
        split="none; the recipe draws 80 % for training, 5 % for validation, 15 % for test",
        units=ATOMIC,
        keys={"energy": "energies"},
        train=("all", "--recipe torchmd-et-ani1"),
    )
    release = Source(f"{FIGSHARE}/18112775", "ani1x-release.h5", 5_590_846_027, "98090dd6679106da861f52bed825ffb7")
    second = "J. S. Smith et al., Sci. Data 7, 134 (2020), doi 10.1038/s41597-020-0473-z"
    for name, what, frames, theory, keys in (
        ("ani-1x", "chosen by active learning from ANI-1's space", 4_956_005, "wB97X/6-31G(d)",
         {"energy": "wb97x_dz.energy", "forces": "wb97x_dz.forces"}),
        ("ani-1ccx", "the part of ANI-1x with coupled-cluster energies", 489_571, "CCSD(T)*/CBS",
         {"energy": "ccsd(t)_cbs.energy"}),
    ):  # fmt: skip
        yield DataSet(
            name=name,
            what=what,
            frames=frames,
            theory=theory,
            licence="CC0-1.0",
            citation=second,
            where="https://springernature.figshare.com/articles/dataset/ANI-1x_Dataset_Release/10047041",
            sources=(release,),
            layout="groups",
            split="none",
            units=ATOMIC,
            keys=keys,
        )


def _3bpa() -> Iterator[DataSet]:
    temperatures = ("300K", "600K", "1200K")
    bpa = ["train_300K", "train_mixedT", *(f"test_{t}" for t in temperatures), "iso_atoms"]
    yield DataSet(
        name="3bpa",
        what="a flexible drug-like molecule at 300, 600, 1200 K",
        frames=None,
        theory="wB97X/6-31G(d)",
        licence="MIT",
        citation="D. P. Kovács et al., J. Chem. Theory Comput. 17, 7696 (2021), doi 10.1021/acs.jctc.1c00647; "
        "I. Batatia et al., arXiv 2205.06643",
        where="https://github.com/davkovacs/BOTNet-datasets",
        sources=tuple(Source(f"{BOTNET}/{file}.xyz", f"3bpa_{file}.xyz") for file in bpa),
        layout="3bpa",
        split="official files; isolated atoms are part of the training files, 50 of 500 are drawn for validation",
        keys={"energy": "energy", "forces": "forces"},
        keep=("dihedrals",),
        train=("train_300K", "--test {test_300K} --set data.valid_part=50"),
    )


def _qm7x() -> Iterator[DataSet]:
    md5 = ("b50c6a5d0a4493c274368cf22285503e", "4418a813daf5e0d44aa5a26544249ee6", "f7b5aac39a745f11436047c12d1eb24e",
           "26819601705ef8c14080fa7fc69decd4", "85ac444596b87812aaa9e48d203d0b70", "787fc4a9036af0e67c034a30ad854c07",
           "5ecce00a188410d06b747cb683d8d347", "c893ae88b8f5c32541c3f024fc1daa45")  # fmt: skip
    folder = f"{ZENODO}/4288677/files"
    yield DataSet(
        name="qm7x",
        what="QM7-X: 4.2 M equilibrium and displaced molecules of up to 7 heavy atoms",
        frames=None,
        theory="PBE0+MBD",
        licence="CC-BY-4.0",
        citation="J. Hoja et al., Sci. Data 8, 43 (2021), doi 10.1038/s41597-021-00812-2",
        where="https://doi.org/10.5281/zenodo.4288677",
        sources=(
            *(Source(f"{folder}/{k}000.xz", f"qm7x_{k}000.xz", None, md5[k - 1]) for k in range(1, 9)),
            Source(f"{folder}/DupMols.dat", "qm7x_DupMols.dat", None, "5d886ccac38877c8cb26c07704dd1034"),
        ),
        layout="qm7x",
        large=True,
        split="none; duplicates that the authors list are left out, structures of one molecule stay together",
        keys={"energy": "ePBE0+MBD", "forces": "totFOR"},
        keep=("structure",),
    )


def _spice() -> Iterator[DataSet]:
    yield DataSet(
        name="spice",
        what="SPICE 2.0.1: drug-like molecules, peptides, dimers, ions",
        frames=None,
        theory="wB97M-D3(BJ)/def2-TZVPPD",
        licence="CC0-1.0",
        citation="P. Eastman et al., Sci. Data 10, 11 (2023), doi 10.1038/s41597-022-01882-6; P. Eastman, "
        "B. P. Pritchard, J. D. Chodera, T. E. Markland, J. Chem. Theory Comput. 20, 8583 (2024), doi "
        "10.1021/acs.jctc.4c00794",
        where="https://doi.org/10.5281/zenodo.10975225",
        sources=(
            Source(
                f"{ZENODO}/10975225/files/SPICE-2.0.1.hdf5", "SPICE-2.0.1.hdf5", 37_479_271_148,
                "bfba2224b6540e1390a579569b475510",
            ),
        ),
        layout="spice",
        split="none; structures of one molecule stay together",
        units={"energy": "Hartree", "length": "Bohr"},
        keys={"energy": "dft_total_energy", "forces": "forces"},
        keep=("subset", "formal_charge"),
    )  # fmt: skip


def _water() -> Iterator[DataSet]:
    systems = (("data_0", 1), ("data_1", 2), ("data_2", 1), ("data_3", 1))
    files = [
        f"{system}/{file}"
        for system, count in systems
        for file in ("type.raw", *(f"set.{k:03d}/{x}.npy" for k in range(count) for x in DEEPMD_ARRAYS))
    ]
    yield DataSet(
        name="water",
        what="liquid water, 64 molecules, the example of DeePMD-kit",
        frames=400,
        theory="PBE0+TS",
        licence="LGPL-3.0 (of its repository)",
        citation="H.-Y. Ko et al., Mol. Phys. 117, 3269 (2019), doi 10.1080/00268976.2019.1652366; L. Zhang et al., "
        "Phys. Rev. Lett. 120, 143001 (2018), doi 10.1103/PhysRevLett.120.143001",
        where="https://github.com/deepmodeling/deepmd-kit/tree/master/examples/water",
        sources=tuple(Source(f"{DEEPMD}/{file}", "water_" + file.replace("/", "_")) for file in files),
        layout="deepmd",
        split="of the example: data_0 to data_2 for training, data_3 for validation",
        member="O H",
        train=("train", "--valid {valid}"),
    )


DEEPMD_ARRAYS = ("box", "coord", "energy", "force")


def _oc20() -> Iterator[DataSet]:
    files = {  # file, frames, size, md5
        "200k": ("s2ef_train_200K", 200_000, 344 * 2**20, "f8d0909c2623a393148435dede7d3a46"),
        "2m": ("s2ef_train_2M", 2_000_000, 3.4 * 2**30, "953474cb93f0b08cdc523399f03f7c36"),
        "20m": ("s2ef_train_20M", 20_000_000, 34 * 2**30, "863bc983245ffc0285305a1850e19cf7"),
        "all": ("s2ef_train_all", 133_934_018, 225 * 2**30, "12a7087bfd189a06ccbec9bc7add2bcd"),
        "val-id": ("s2ef_val_id", 999_866, 1.7 * 2**30, "f57f7f5c1302637940f2cc858e789410"),
        "val-ood-ads": ("s2ef_val_ood_ads", 999_838, 1.7 * 2**30, "431ab0d7557a4639605ba8b67793f053"),
        "val-ood-cat": ("s2ef_val_ood_cat", 999_809, 1.7 * 2**30, "532d6cd1fe541a0ddb0aa0f99962b7db"),
        "val-ood-both": ("s2ef_val_ood_both", 999_944, 1.9 * 2**30, "5731862978d80502bbf7017d68c2c729"),
    }
    for name, (file, frames, size, md5) in files.items():
        valid = name.startswith("val")
        yield DataSet(
            name=f"oc20-{name}",
            what=f"OC20 S2EF, {'validation ' + name[4:] if valid else 'training ' + name}: adsorbates on surfaces",
            frames=frames,
            theory="RPBE",
            licence="CC-BY-4.0",
            citation=OC20,
            where="https://facebookresearch.github.io/fairchem/oc20",
            sources=(Source(f"{META}/{file}.tar", f"{file}.tar", int(size), md5),),
            layout="oc20",
            split="official: this file is the "
            + ("validation part" if valid else "training part, oc20-val-… are the others"),
            member="valid" if valid else "train",
            keys={"energy": "energy", "forces": "forces"},
            keep=("sid", "fid", "reference_energy"),
            train=("valid" if valid else "train", "--recipe oc20-31m --set task.energy=adsorption"),
        )


def _materials() -> Iterator[DataSet]:
    yield DataSet(
        name="mptrj",
        what="relaxations of the Materials Project",
        frames=1_580_395,
        theory="PBE/PBE+U",
        licence="MIT (as catalogued by Matbench Discovery)",
        citation="B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi 10.1038/s42256-023-00716-3",
        where="https://figshare.com/articles/dataset/23713842",
        sources=(
            Source("https://figshare.com/ndownloader/files/49034296", "2024-09-03-mp-trj.extxyz.zip", None,
                   "7f433171e4e5f2ef9304dccd42d5488f"),
        ),
        layout="extxyz",
        large=True,
        split="none",
        train=("all", "--recipe mptrj-v3"),
    )  # fmt: skip
    parts = {  # GB of training and MB of validation
        "rattled-1000": (21, 218), "rattled-1000-subsampled": (7.1, 77), "rattled-500": (13, 135),
        "rattled-500-subsampled": (7.3, 79), "rattled-300": (12, 122), "rattled-300-subsampled": (6.4, 69),
        "aimd-from-PBE-1000-npt": (26, 261), "aimd-from-PBE-1000-nvt": (24, 251), "aimd-from-PBE-3000-npt": (25, 282),
        "aimd-from-PBE-3000-nvt": (32, 364), "rattled-relax": (12, 118),
    }  # fmt: skip
    for part, (train, valid) in parts.items():
        yield DataSet(
            name=f"omat24-{part.lower()}",
            what=f"OMat24, {part}: inorganic crystals off equilibrium",
            frames=None,
            theory="PBE/PBE+U",
            licence="CC-BY-4.0",
            citation="L. Barroso-Luque et al., arXiv 2410.12771",
            where="https://huggingface.co/datasets/fairchem/OMAT24",
            sources=(
                Source(f"{META}/omat/241018/omat/train/{part}.tar.gz", f"omat24_train_{part}.tar.gz", int(train * GB)),
                Source(f"{META}/omat/241220/omat/val/{part}.tar.gz", f"omat24_val_{part}.tar.gz", valid * MB),
            ),
            layout="aselmdb",
            split="official files",
            train=("train", "--valid {valid} --recipe omat24-v3"),
        )


def _all() -> Iterator[DataSet]:
    for family in (_rmd17, _md17, _ccsd, _md22, _qm9, _ani, _3bpa, _qm7x, _spice, _water, _oc20, _materials):
        yield from family()


SETS: Mapping[str, DataSet] = MappingProxyType({one.name: one for one in _all()})


def data_set_named(name: str) -> DataSet:
    """The set of this name.

    Raises:
        CovariumError: there is none; the nearest is named.
    """
    if name not in SETS:
        family = ", ".join(known for known in SETS if known.startswith(f"{name}-"))
        meant = f"; of this family: {family}" if family else nearest(name, SETS)
        raise CovariumError(f"there is no data set '{name}'{meant}; covarium data list shows all {len(SETS)}")
    return SETS[name]
