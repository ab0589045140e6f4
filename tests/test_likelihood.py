import pytest
import torch
from reference import quadratic_loop

from cryoatom.fourier import centered_rfft2
from cryoatom.imaging.likelihood import cross_and_power, gaussian_nll, profiled_nll, quadratic_form


def random_image(side: int, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randn(batch, side, side, dtype=torch.float64, generator=generator).requires_grad_()


def even_kernel(side: int, batch: int = 2) -> torch.Tensor:
    """Lags of -side ... side - 1; as in the crops, the lag of -side, which has no partner, is zero."""
    kernel = torch.randn(batch, 2 * side, 2 * side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kernel[:, 0] = kernel[:, :, 0] = 0
    kernel[:, 1:, 1:] += kernel[:, 1:, 1:].flip(1, 2)
    return kernel


@pytest.mark.parametrize("side", [5, 6])
@pytest.mark.parametrize("kernels", [1, 2])
def test_quadratic_form_is_the_dense_sum(side, kernels):
    images, kernel = random_image(side), even_kernel(side, kernels)
    fast = quadratic_form(images, centered_rfft2(kernel).real)
    slow = torch.stack([quadratic_loop(v, k) for v, k in zip(images, kernel.expand(2, -1, -1), strict=True)])
    torch.testing.assert_close(fast, slow)
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found, expected = (torch.autograd.grad(value @ weight, images)[0] for value in (fast, slow))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("side", [5, 6])
def test_the_filter_is_its_own_adjoint(side):
    """<u, κ*v> = <κ*u, v>: the gradient at v, ½ of which is κ*v, is symmetric."""
    spectrum = centered_rfft2(even_kernel(side, 1)).real
    u, v = random_image(side, 1), random_image(side + 1, 1)[:, :side, :side].detach().requires_grad_()
    (filtered_u,) = torch.autograd.grad(quadratic_form(u, spectrum).sum(), u)
    (filtered_v,) = torch.autograd.grad(quadratic_form(v, spectrum).sum(), v)
    torch.testing.assert_close((u * filtered_v).sum(), (filtered_u * v).sum())
    sum_of_both = quadratic_form(u + v, spectrum)  # and the form is quadratic
    torch.testing.assert_close(
        sum_of_both, quadratic_form(u, spectrum) + quadratic_form(v, spectrum) + (u * filtered_v).sum()
    )


def test_gradcheck_of_both_likelihoods():
    crop, spectrum = random_image(4).detach(), centered_rfft2(even_kernel(4)).real.abs() + 0.1
    crop = crop.sign() * random_image(4).detach() + crop  # a positive correlation with the image below
    for nll in (gaussian_nll, profiled_nll):
        assert torch.autograd.gradcheck(lambda v, nll=nll: nll(*cross_and_power(v, crop, spectrum)), random_image(4))


CROSS = torch.tensor([3.0, 0.2, 0.0, -2.0], dtype=torch.float64)
POWER = torch.tensor([2.0, 1.5, 1.0, 4.0], dtype=torch.float64)


def test_the_profiled_likelihood_is_the_least_over_scales():
    scales = torch.linspace(0, 5, 50_001, dtype=torch.float64)
    for cross, power in zip(CROSS[:, None], POWER[:, None], strict=True):
        everywhere = gaussian_nll(scales * cross, scales**2 * power)
        torch.testing.assert_close(profiled_nll(cross, power)[0], everywhere.min(), atol=1e-8, rtol=0)


def test_the_profiled_likelihood_ignores_scale_and_negative_correlation():
    torch.testing.assert_close(profiled_nll(7 * CROSS, 49 * POWER), profiled_nll(CROSS, POWER))
    cross = torch.tensor([-2.0], requires_grad=True)
    value = profiled_nll(cross, torch.ones(1))
    assert value == 0
    assert torch.autograd.grad(value.sum(), cross)[0] == 0
