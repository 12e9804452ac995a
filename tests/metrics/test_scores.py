from act_ray.metrics.scores import WORST, finite_or_worst


def test_finite_or_worst() -> None:
    given = [None, float("nan"), float("inf"), -float("inf"), WORST, 2 * WORST, 0.0, 3.5, -1e-9]
    assert [finite_or_worst(x) for x in given] == [WORST] * 6 + [0.0, 3.5, -1e-9]
