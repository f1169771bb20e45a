"""CCA and PCA against their definitions, and as the start of embedding heads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import heads
from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.evals import cca

N = 4000


@pytest.fixture(scope="module")
def correlated() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two modalities, 5 and 4 wide and mixed, whose three hidden pairs correlate by .9, .6 and .3 exactly."""
    rng = np.random.default_rng(0)
    # Orthonormal columns, so that sample correlations are those of the construction.
    hidden = np.linalg.qr(rng.normal(size=(N, 9)))[0]
    hidden = np.linalg.qr(hidden - hidden.mean(0))[0] * np.sqrt(N - 1)
    wanted = np.array([0.9, 0.6, 0.3, 0.0])
    first = hidden[:, :5]
    second = wanted * hidden[:, :4] + np.sqrt(1 - wanted**2) * hidden[:, 5:]
    return first @ rng.normal(size=(5, 5)) + 3, second @ rng.normal(size=(4, 4)) - 1, wanted


def test_cca_finds_the_correlations_of_a_constructed_problem(correlated):
    first, second, wanted = correlated
    of_first, of_second, correlations = cca.cca(first, second, dim=3, regularise=0.0)
    np.testing.assert_allclose(correlations, wanted[:3], atol=1e-6)
    x, y = of_first(first), of_second(second)
    np.testing.assert_allclose(np.cov(x.T), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.cov(y.T), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(x.T @ y / (N - 1), np.diag(wanted[:3]), atol=1e-6)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-9)


def test_cca_solves_hotellings_eigenproblem(correlated):
    """The squared correlations are the eigenvalues of Cxx^-1 Cxy Cyy^-1 Cyx."""
    first, second, _ = correlated
    rng = np.random.default_rng(1)
    first, second = first[:50] + rng.normal(size=(50, 5)), second[:50] + rng.normal(size=(50, 4))
    joint = np.cov(np.concatenate([first, second], axis=1).T)
    xx, xy, yy = joint[:5, :5], joint[:5, 5:], joint[5:, 5:]
    eigenvalues = np.linalg.eigvals(np.linalg.solve(xx, xy) @ np.linalg.solve(yy, xy.T))
    _, _, correlations = cca.cca(first, second, dim=4, regularise=0.0)
    np.testing.assert_allclose(correlations**2, np.sort(eigenvalues.real)[::-1][:4], rtol=1e-8)


def test_cca_does_not_depend_on_the_coordinates_of_either_side(correlated):
    first, second, _ = correlated
    rng = np.random.default_rng(2)
    mixed = first @ rng.normal(size=(5, 5)) * 1e3 + 7, second @ rng.normal(size=(4, 4)) * 1e-3
    (one, two, a), (three, four, b) = cca.cca(first, second, 3, 0.0), cca.cca(*mixed, 3, 0.0)
    np.testing.assert_allclose(a, b, atol=1e-8)
    for x, y in ((one(first), three(mixed[0])), (two(second), four(mixed[1]))):
        np.testing.assert_allclose(x, y * np.sign((x * y).sum(0)), atol=1e-6)  # but for a sign


def test_ridge_keeps_cca_from_finding_what_is_not_there():
    """Fewer examples than features: without it, noise correlates with noise by one, and on others by none."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(20, 30)), rng.normal(size=(20, 30))
    assert cca.cca(first, second, 1, regularise=1e-9)[2][0] > 0.999
    ridge = cca.cca(first, second, 1, regularise=10.0)[2][0]
    assert ridge < 0.5


def test_pca_against_the_covariance():
    x = np.random.default_rng(0).normal(size=(60, 5)) @ np.random.default_rng(1).normal(size=(5, 5)) + 2
    found, variances = cca.pca(x, dim=3)
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(np.cov(x.T))[::-1][:3], rtol=1e-9)
    np.testing.assert_allclose(np.cov(found(x).T), np.diag(variances), atol=1e-8)
    np.testing.assert_allclose(found.kernel.T @ found.kernel, np.eye(3), atol=1e-9)


def test_joint_pca_brings_pairs_together(correlated):
    """The direction of the pair that correlates by .9 is the first, in each side's own coordinates."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(500, 1))
    first = np.concatenate([shared, 0.5 * rng.normal(size=(500, 3))], axis=1)
    second = np.concatenate([0.5 * rng.normal(size=(500, 2)), 20 * shared], axis=1)
    of_first, of_second, variances = cca.joint_pca(first, second, dim=2)
    assert (np.diff(variances) < 0).all()
    x, y = of_first(first)[:, 0], of_second(second)[:, 0]
    assert np.corrcoef(x, y)[0, 1] > 0.99 and 0.5 < x.std() / y.std() < 2


def test_an_embedding_head_starts_from_a_map(correlated):
    first, second, _ = correlated
    of_first, of_second, _ = cca.cca(first, second, dim=3)
    kinds = {
        "image": heads.PooledEmbedding("image", 3, use_bias=True),
        "text": heads.PooledEmbedding("text", 3),
    }
    sides = {"image": (first, of_first), "text": (second, of_second)}
    model = {"fusion": {}}
    for name, (features, _) in sides.items():
        one = Encoded(jnp.asarray(features[:2, None], jnp.float32), jnp.ones((2, 1), bool))
        model[f"heads_{name}"] = nn.meta.unbox(kinds[name].init(jax.random.key(0), one)["params"])
    params = {"model": model, "objectives": {}}
    started = cca.start_from(params, {"image": of_first, "text": of_second})
    for name, (features, linear_map) in sides.items():
        many = Encoded(jnp.asarray(features[:8, None], jnp.float32), jnp.ones((8, 1), bool))
        found = kinds[name].apply({"params": started["model"][f"heads_{name}"]}, many)
        # Without a bias the mean stays in the features.
        expected = linear_map(features[:8]) if name == "image" else features[:8] @ linear_map.kernel
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        kernel = started["model"][f"heads_{name}"]["linear"]["kernel"]
        assert kernel.dtype == jnp.float32
        assert not np.allclose(kernel, params["model"][f"heads_{name}"]["linear"]["kernel"])


def test_refusals(correlated):
    first, second, _ = correlated
    of_first, _, _ = cca.cca(first, second, dim=2)
    head = {"linear": {"kernel": np.zeros((5, 3), np.float32)}}
    params = {"model": {"heads_image": head, "heads_text": head}}
    with pytest.raises(InputError, match=r"found 'picture'; heads with parameters: \['image', 'text'\]"):
        cca.start_from(params, {"picture": of_first})
    with pytest.raises(InputError, match=r"'image' expects a map of shape \(5, 3\), found \(5, 2\)"):
        cca.start_from(params, {"image": of_first})
    with pytest.raises(InputError, match="expected pairs, found 4000 and 3999 rows"):
        cca.cca(first, second[1:], dim=2)
    with pytest.raises(InputError, match="dim expects 1 to 4, the number of features, found 5"):
        cca.cca(first, second, dim=5)
    with pytest.raises(InputError, match=r"at least 2 examples, 'N D', found the shape \(1, 5\)"):
        cca.pca(first[:1], dim=1)
