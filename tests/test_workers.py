import threading
import time

import pytest
import torch

from cryoatom.workers import Workers


@pytest.mark.parametrize("count", [1, 2, 3])
def test_values_come_in_the_order_of_the_items(count):
    def slow_first(item: int) -> int:
        time.sleep(0.01 if item == 0 else 0)
        return item**2

    with Workers(count) as workers:
        assert workers.map(slow_first, range(7)) == [0, 1, 4, 9, 16, 25, 36]
        assert workers.map(slow_first, []) == []


@pytest.mark.parametrize("count", [1, 2])
def test_a_stream_is_in_order_and_does_not_run_far_ahead(count):
    started = []

    def slow_first(item: int) -> int:
        started.append(item)
        time.sleep(0.01 if item == 0 else 0)
        return -item

    with Workers(count) as workers:
        for taken, value in enumerate(workers.stream(slow_first, range(40))):
            assert value == -taken
            assert len(started) <= taken + 1 + 2 * count
    assert started[-1] == 39


def test_sums_do_not_depend_on_the_number_of_threads():
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(0), requires_grad=True)
    chunks = torch.randn(9, 40, 300, generator=torch.Generator().manual_seed(1))

    def gradient(chunk: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((chunk @ weight).tanh().square().sum(), weight)[0]

    results = []
    for count in (1, 2, 4):
        with Workers(count) as workers:
            results.append(torch.stack(workers.map(gradient, list(chunks))).sum(dim=0))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_one_worker_is_the_callers_thread_and_more_are_others():
    for count in (1, 2):
        with Workers(count) as workers:
            threads = set(workers.map(lambda _: threading.get_ident(), range(8)))
        assert (threads == {threading.get_ident()}) == (count == 1)
        assert len(threads) <= count


def test_every_worker_computes_with_one_thread_and_the_old_number_comes_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for count in (1, 2):
            with Workers(count) as workers:
                assert set(workers.map(lambda _: torch.get_num_threads(), range(4))) == {1}
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2])
def test_denormal_numbers_are_zero_inside_and_themselves_outside(count):
    tiny = torch.tensor([1e-30])
    with Workers(count) as workers:
        assert workers.map(lambda x: (x * 1e-10).item(), [tiny]) == [0.0]
    assert (tiny * 1e-10).item() > 0


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_a_worker_is_the_callers(count):
    def fail(item: int) -> int:
        if item == 3:
            raise ValueError("item 3")
        return item

    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="item 3"), Workers(count) as workers:
        workers.map(fail, range(50))
    assert torch.get_num_threads() == before
    assert threading.active_count() == 1 or all("ThreadPool" not in t.name for t in threading.enumerate())
