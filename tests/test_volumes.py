import csv
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fits import PIXEL_SIZE, bent, settings, small_template, write_dataset

from cryoatom.analysis.run import Run, load
from cryoatom.analysis.volume_config import VolumeConfig
from cryoatom.analysis.volume_files import write_volumes
from cryoatom.analysis.volumes import (
    bead_density,
    in_box,
    map_grid,
    mean_density,
    reconstruct_images,
    write_densities,
)
from cryoatom.cli.main import cli
from cryoatom.files.density import write_map
from cryoatom.files.mrc import read_map
from cryoatom.imaging.beads import BeadModel, bead_layout
from cryoatom.poses.reconstruct import backproject_halves
from cryoatom.training.images import prepare_images
from cryoatom.training.stage import silent
from cryoatom.training.train import train
from cryoatom.workers import Workers


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("volumes")
    write_dataset(folder, 40)
    return load(train(settings(folder, num_epochs=1, z_passes=0, dcd=False, analysis=False)).path)


@pytest.mark.parametrize("side", [40, 45])
@pytest.mark.parametrize("layout", ["atoms", "ca"])
def test_the_sum_of_the_density_is_the_projection_that_the_model_renders(side, layout):
    template = small_template()
    beads = BeadModel(bead_layout(template, layout), template, PIXEL_SIZE)
    conformation = bent(np.array([6.0])).astype(np.float32) + np.array([3, -5, 8], np.float32)
    density = bead_density(beads, conformation, side, PIXEL_SIZE)
    along_x = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])  # image x is y, image y is z
    for rotation, axis in ((torch.eye(3), 0), (along_x, 2)):
        with torch.no_grad():
            image = beads.render(torch.from_numpy(conformation), rotation[None], side, PIXEL_SIZE)[0]
        torch.testing.assert_close(density.sum(axis) * PIXEL_SIZE, image, atol=1e-3 * float(image.max()), rtol=0)
    total = float(beads.amplitudes().sum().detach())
    assert float(density.sum()) * PIXEL_SIZE**3 == pytest.approx(total, rel=1e-3)


def test_many_conformations_give_the_mean_of_their_densities(monkeypatch):
    template = small_template()
    beads = BeadModel(bead_layout(template, "atoms"), template, PIXEL_SIZE)
    conformations = bent(np.linspace(-5, 5, 5)).astype(np.float32)
    each = torch.stack([bead_density(beads, one[None], 32, PIXEL_SIZE) for one in conformations])
    monkeypatch.setattr("cryoatom.analysis.volumes._BEADS_AT_ONCE", 90)
    torch.testing.assert_close(bead_density(beads, conformations, 32, PIXEL_SIZE), each.mean(0), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("side", "box"), [(8, 12), (8, 13), (9, 12), (9, 15), (12, 7), (13, 8), (8, 8)])
def test_another_box_keeps_the_origin(side, box):
    values = torch.arange(side**3, dtype=torch.float32).view(side, side, side)
    other = in_box(values, box)
    assert other.shape == (box, box, box)
    assert other[box // 2, box // 2, box // 2] == values[side // 2, side // 2, side // 2]
    assert other[box // 2, box // 2 + 1, box // 2 - 1] == values[side // 2, side // 2 + 1, side // 2 - 1]


def header_origin(path: Path) -> list[float]:
    with mrcfile.open(path, header_only=True) as file:
        assert file.header is not None
        return [float(file.header.origin[axis]) for axis in "xyz"]


@pytest.mark.parametrize("box", [12, 13])
@pytest.mark.parametrize("is_centered", [True, False])
def test_a_map_is_read_as_it_was_written(tmp_path, box, is_centered):
    path, values = tmp_path / "map.mrc", np.random.default_rng(0).standard_normal((box, box, box)).astype(np.float32)
    write_map(path, values, 1.25, is_centered=is_centered)
    assert mrcfile.validate(path)
    found = read_map(path)
    np.testing.assert_array_equal(found.values, values)
    assert found.pixel_size == pytest.approx(1.25)
    np.testing.assert_allclose(found.header_center, 0, atol=1e-5)
    corner = -(box // 2) * 1.25 if is_centered else 0
    np.testing.assert_allclose(header_origin(path), corner, atol=1e-5)
    with pytest.raises(ValueError, match="voxels that are not finite"):
        write_map(path, np.full_like(values, np.nan), 1.25, is_centered=is_centered)


def written(run: Run, outdir: Path, **given: object) -> tuple[list[str], float | None]:
    config = VolumeConfig.model_validate({"run": run.folder.path, "outdir": outdir, **given})
    with Workers(1) as workers:
        volumes = write_volumes(run, np.arange(3, 37), config, workers=workers)
    assert all(path.is_file() for path in volumes.files)
    return [path.name for path in volumes.files], volumes.correlations and volumes.correlations.finest


def test_maps_of_a_run_fit_its_beads(run, tmp_path):
    names, finest = written(run, tmp_path / "out", backproject=True)
    assert names == ["density.mrc", "map.mrc", "half1.mrc", "half2.mrc", "fsc.csv", "fsc.png", "rows.txt"]
    density, found = (read_map(tmp_path / "out" / f"{name}.mrc") for name in ("density", "map"))
    assert found.pixel_size == pytest.approx(run.grid.coarse_pixel)
    expected = mean_density(run, np.arange(3, 37), run.grid.side, run.grid.coarse_pixel)
    np.testing.assert_allclose(density.values, expected, atol=1e-6)
    assert np.corrcoef(density.values.ravel(), found.values.ravel())[0, 1] > 0.7
    assert finest is not None and finest >= 2 * run.pixel_size - 1e-6
    assert (tmp_path / "out" / "rows.txt").read_text().split() == [str(row) for row in range(3, 37)]
    with (tmp_path / "out" / "fsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == run.grid.side // 2 + 1 and float(rows[2]["half_maps"]) > 0.5


def test_images_are_weighted_by_the_noise_of_the_training(run, monkeypatch):
    seen, images = {}, np.array([3, 4, 9, 17])

    def watched(read_images, optics, poses, grid, **given):
        seen.update(given, images=read_images(np.array([1, 3])), defocus=optics.defocus_u)
        return backproject_halves(read_images, optics, poses, grid, **given)

    monkeypatch.setattr("cryoatom.analysis.volumes.backproject_halves", watched)
    with Workers(1) as workers:
        reconstruct_images(run, images, run.grid, workers=workers)
        data = prepare_images(run.config, run.inputs(), run.folder, workers, silent)
    np.testing.assert_allclose(seen["noise"].spectra, data.noise_power, rtol=1e-6)
    assert seen["noise"].group_of_image.tolist() == data.noise_group[images].tolist()
    particles = run.inputs().particles
    assert seen["defocus"].tolist() == particles.optics.defocus_u[images].tolist()
    with mrcfile.mmap(particles.stacks[0]) as stack:
        for own, row in zip(seen["images"], (4, 17), strict=True):
            assert np.corrcoef(own.numpy().ravel(), np.asarray(stack.data)[row].ravel())[0, 1] == pytest.approx(
                1, abs=1e-6
            )


def test_dead_images_are_left_out(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder.path, folder)
    with run.folder.image_report.open() as file:
        rows = list(csv.DictReader(file))
    rows[5]["is_dead"] = rows[9]["is_dead"] = "1"
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "rows.txt").write_text("4 5 9 11 30")
    result = CliRunner().invoke(
        cli, ["volume", str(folder), "--ind", str(tmp_path / "rows.txt"), "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "among these 5 images are" in result.output and "2 dead (they could not be used)" in result.output
    assert "3 of 40 images (2 dead ones left out): " in result.output
    assert (tmp_path / "out" / "rows.txt").read_text().split() == ["4", "11", "30"]
    expected = mean_density(run, np.array([4, 11, 30]), run.grid.side, run.grid.coarse_pixel)
    np.testing.assert_allclose(read_map(tmp_path / "out" / "density.mrc").values, expected, atol=1e-6)
    config = VolumeConfig.model_validate({"run": folder, "outdir": tmp_path / "none"})
    with Workers(1) as workers, pytest.raises(ValueError, match="none of these images could be used"):
        write_volumes(load(folder), np.array([5, 9]), config, workers=workers)


def test_box_voxels_resolution_and_origin_are_as_asked(run, tmp_path):
    given = {"box": 26, "pixel": 2.5, "resolution": 12.0, "origin": "zero", "conformations": 2}
    assert written(run, tmp_path, **given)[0] == ["density.mrc", "rows.txt"]
    found = read_map(tmp_path / "density.mrc")
    assert found.values.shape == (26, 26, 26) and header_origin(tmp_path / "density.mrc") == [0, 0, 0]
    assert found.pixel_size == pytest.approx(map_grid(run, 2.5).coarse_pixel, rel=1e-5)
    power = np.abs(np.fft.fftn(found.values)) ** 2
    assert power[:2, :2, :2].sum() > 100 * power[8:18, 8:18, 8:18].sum()
    with pytest.raises(ValueError, match="--pixel 1 is finer than the images' pixels of 2 Å"):
        map_grid(run, 1.0)


def test_each_conformation_of_a_series_gets_a_map(run, tmp_path):
    series = np.asarray(run.conformations[:2], np.float64)
    assert [path.name for path in write_densities(run, series, tmp_path)] == ["vol_001.mrc", "vol_002.mrc"]
    own = mean_density(run, np.array([1]), run.grid.side, run.grid.coarse_pixel)
    np.testing.assert_allclose(read_map(tmp_path / "vol_002.mrc").values, own, atol=1e-6)
