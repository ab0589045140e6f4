"""Settings of `cryoatom simulate`."""

from __future__ import annotations

from pathlib import Path

from pydantic import PositiveInt, field_validator

from cryoatom.config import Settings, setting


class SimulateConfig(Settings):
    """Settings of `cryoatom simulate`."""

    outdir: Path = setting(..., "Folder to write the data set to.", flags=("-o", "--outdir"))
    top: Path | None = setting(None, "Topology that names the atoms of a DCD, XTC or npy: PSF, PDB or mmCIF.")
    superpose: str = setting(
        "all", "Residues whose C-alphas are superposed on the first frame (1-29,60-121), all, none."
    )
    center: bool = setting(True, "Centre every frame on its C-alphas; otherwise all frames move together.")

    images_per_frame: PositiveInt = setting(100, "Images of each frame, every one in its own orientation.")
    box: PositiveInt = setting(256, "Image side in pixels.")
    pixel_size: float = setting(1.0, "Å.", gt=0)
    max_shift: float = setting(0.0, "In-plane shifts are uniform within plus or minus this, Å.", ge=0)

    dose: float = setting(100.0, "Electrons per Å².", gt=0)
    voltage: tuple[float, ...] = setting((300.0,), "Acceleration voltage in kV; repeat it for several optics groups.")
    cs: float = setting(2.7, "Spherical aberration in mm.", ge=0)
    amplitude_contrast: float = setting(
        0.06, "Fraction of amplitude contrast, also written to the STAR file.", ge=0, lt=1
    )
    defocus: float = setting(20000.0, "Mean defocus in Å, positive under focus.")
    defocus_spread: float = setting(0.0, "Defocus is uniform within plus or minus this around its mean, Å.", ge=0)
    astigmatism: float = setting(0.0, "Largest difference between the two principal defoci, Å.", ge=0)
    dqe_nyquist: float = setting(1.0, "Detective quantum efficiency at Nyquist; it falls linearly from 1.", ge=0, le=1)

    solvent: bool = setting(True, "Subtract the vitreous water that the molecule displaces.")
    b_factor: float = setting(0.0, "Blur of motion and radiation damage, Å².", ge=0)
    noise: bool = setting(True, "Count electrons; otherwise write the expected contrast as it is.")

    float16: bool = setting(False, "Write half-precision images (MRC mode 12).")
    overwrite: bool = setting(False, "Replace the data set that is in the folder.")
    seed: int = setting(0, "Seed of every random number; the same seed gives the same files.", ge=0)
    threads: PositiveInt | None = setting(None, "CPU threads [default: what SLURM and the machine grant].")

    @field_validator("voltage")
    @classmethod
    def _positive(cls, voltage: tuple[float, ...]) -> tuple[float, ...]:
        if not voltage or min(voltage) <= 0:
            raise ValueError("must be one or more positive numbers")
        return voltage
